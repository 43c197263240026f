//! What was done when, in a file beside the nodes' logs, whose lines begin with the same times.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// Where faults and changes are noted.
#[derive(Clone)]
pub(crate) struct Story(Arc<Mutex<File>>);

impl Story {
    /// Begins the file.
    pub(crate) fn begin(dir: &Path) -> io::Result<Story> {
        Ok(Story(Arc::new(Mutex::new(File::create(dir.join("story.log"))?))))
    }

    /// Adds a line. That it cannot be written is no finding.
    pub(crate) fn note(&self, what: &str) {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, millis) = (clock.as_secs() % 86_400, clock.subsec_millis());
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(file, "{hour:02}:{minute:02}:{second:02}.{millis:03}  {what}");
    }
}
