//! Reading ahead while a log is opened: a thread fetches the next piece while the last one is
//! checked.
//!
//! Invariant: a buffer belongs to the thread from the request to its answer.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

use crate::buffer::Buffer;
use crate::disk::DiskError;
use crate::disk::sys::disk_error;
use crate::id::Position;

/// What is read: `length` bytes at a place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Piece {
    pub(crate) at: Position,
    pub(crate) length: usize,
}

/// A file, where in it, how many bytes, and where to.
type Request = (Arc<File>, u64, usize, Buffer);
type Answer = (Buffer, Result<(), DiskError>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Ahead {
    requests: Option<Sender<Request>>,
    answers: Receiver<Answer>,
    asked: Option<Piece>,
    spare: Option<Buffer>,
    thread: Option<JoinHandle<()>>,
}

impl Ahead {
    /// Starts the thread. `None` where there can be none: then nothing is read ahead.
    pub(crate) fn start() -> Option<Ahead> {
        let (requests, work) = channel::<Request>();
        let (answer, answers) = channel();
        let run = move || {
            for (file, offset, length, mut buffer) in work {
                let read = file.read_exact_at(&mut buffer[..length], offset);
                let result = read.map_err(|error| disk_error(&error));
                if answer.send((buffer, result)).is_err() {
                    return;
                }
            }
        };
        let thread = std::thread::Builder::new().name("log-ahead".to_owned()).spawn(run).ok()?;
        let (requests, thread) = (Some(requests), Some(thread));
        Some(Ahead { requests, answers, asked: None, spare: None, thread })
    }

    /// Begins to read `piece`.
    pub(crate) fn ask(&mut self, file: Arc<File>, piece: Piece) {
        if self.asked.is_some() {
            return;
        }
        let fits = |buffer: &Buffer| buffer.capacity() >= piece.length;
        let mut buffer =
            self.spare.take().filter(fits).unwrap_or_else(|| Buffer::zeroed(piece.length));
        buffer.set_length(buffer.capacity());
        let request = (file, piece.at.offset, piece.length, buffer);
        if self.requests.as_ref().is_some_and(|requests| requests.send(request).is_ok()) {
            self.asked = Some(piece);
        }
    }

    /// Puts `piece` into `buffer`, if that is what was asked for. Another one that was asked for is
    /// forgotten.
    pub(crate) fn take(
        &mut self,
        piece: Piece,
        buffer: &mut Buffer,
    ) -> Option<Result<(), DiskError>> {
        let asked = self.asked.take()?;
        let (mut read, result) = self.answers.recv().ok()?;
        let is_it = asked == piece && read.capacity() >= buffer.capacity();
        if is_it {
            std::mem::swap(buffer, &mut read);
        }
        self.spare = Some(read);
        is_it.then_some(result)
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
