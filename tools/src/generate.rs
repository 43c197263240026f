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
        return output::text_block(page("margay", &command)?.as_bytes());
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
fn pages(name: &str, command: &Command) -> Result<Vec<(String, String)>, Exit> {
    let mut all = vec![(name.to_owned(), page(name, command)?)];
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        all.extend(pages(&format!("{name}-{}", verb.get_name()), verb)?);
    }
    Ok(all)
}

fn page(name: &str, command: &Command) -> Result<String, Exit> {
    /// What is said behind the options, as clap_mangen calls it.
    const EXTRA: &str = ".SH EXTRA\n";
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .title(name.to_uppercase())
        .source(concat!("margay ", env!("CARGO_PKG_VERSION")))
        .render(&mut page)?;
    let page = String::from_utf8_lossy(&page).into_owned();
    let Some((before, notes)) = page.split_once(EXTRA) else { return Ok(page) };
    // Examples and tables: nobody may fill their lines.
    let (notes, after) = notes.split_at(notes.find("\n.SH ").map_or(notes.len(), |end| end + 1));
    Ok(format!("{before}.SH NOTES\n.nf\n{}\n.fi\n{after}", notes.trim_end()))
}
