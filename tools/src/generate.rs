//! `margay completions` and `margay man`: made from the definitions of the commands, so that they
//! cannot say anything else.

use std::path::PathBuf;

use clap::Command;
use clap_complete::Shell;

use crate::exit::Exit;
use crate::output;

/// Print completions for a shell
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay completions bash > /etc/bash_completion.d/margay
  margay completions zsh > ~/.zfunc/_margay
  margay completions fish > ~/.config/fish/completions/margay.fish")]
pub(crate) struct Completions {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or write one page per command
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  margay man | man -l -
  margay man --dir /usr/local/share/man/man1")]
pub(crate) struct Man {
    /// Write margay.1, margay-value.1 and so on into this directory
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

pub(crate) fn completions(args: &Completions, mut command: Command) -> Result<(), Exit> {
    let mut out = Vec::new();
    clap_complete::generate(args.shell, &mut command, "margay", &mut out);
    output::text_block(&out)
}

pub(crate) fn man(args: &Man, mut command: Command) -> Result<(), Exit> {
    command.build();
    let Some(dir) = &args.dir else {
        let mut out = Vec::new();
        clap_mangen::Man::new(command).render(&mut out)?;
        return output::text_block(&out);
    };
    let failed = |path: &PathBuf, error: std::io::Error| {
        Exit::usage(format!("cannot write {}: {error}", path.display()))
    };
    std::fs::create_dir_all(dir).map_err(|error| failed(dir, error))?;
    for (name, page) in pages("margay", &command)? {
        let path = dir.join(format!("{name}.1"));
        std::fs::write(&path, page).map_err(|error| failed(&path, error))?;
    }
    Ok(())
}

/// A page for a command and for each below it.
fn pages(name: &str, command: &Command) -> Result<Vec<(String, Vec<u8>)>, Exit> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).title(name.to_uppercase()).render(&mut page)?;
    let mut all = vec![(name.to_owned(), page)];
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        all.extend(pages(&format!("{name}-{}", verb.get_name()), verb)?);
    }
    Ok(all)
}
