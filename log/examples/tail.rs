//! Following a log: one thread appends, one prints what becomes durable, as `tail -f` would.
//!
//!     cargo run -p margay-log --example tail

use margay_log::Error;
use margay_log::commit_log::{CommitLog, CommitLogOptions};
use margay_log::id::Index;

const LINES: u64 = 20;

fn main() -> Result<(), Error> {
    let directory = std::env::temp_dir().join(format!("margay-tail-{}", std::process::id()));
    let result = run(&directory);
    let _ = std::fs::remove_dir_all(&directory);
    result
}

fn run(directory: &std::path::Path) -> Result<(), Error> {
    let opening = CommitLog::open(directory, CommitLogOptions::default())?;
    println!("log in {} on {}", directory.display(), opening.driver);
    let log = opening.log;
    let mut follower = log.follow(Index(1));
    let follows = std::thread::spawn(move || -> Result<u64, Error> {
        let mut lines = 0;
        loop {
            match follower.wait_next() {
                Ok(record) => {
                    lines += 1;
                    println!("{:>4}  {}", record.index, String::from_utf8_lossy(record.payload));
                }
                // The log was closed, and everything has been seen.
                Err(Error::Closed) => return Ok(lines),
                Err(error) => return Err(error),
            }
        }
    });
    for n in 1..=LINES {
        log.append(format!("line {n} of {LINES}").as_bytes())?.wait()?;
    }
    drop(log);
    let lines = follows.join().expect("the follower does not panic")?;
    assert_eq!(lines, LINES);
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn runs() {
        super::main().expect("the example runs");
    }
}
