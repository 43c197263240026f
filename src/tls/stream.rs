//! A connection that is used with blocking calls, encrypted or not.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Instant;

use super::{Secure, Tls};

/// Read at once, at most.
const CHUNK: usize = 16 << 10;

/// The first byte of every TLS connection, and of no other that is answered.
pub(crate) const HANDSHAKE: u8 = 0x16;

/// A connection that is used with blocking calls, encrypted or not. A step of a call takes as long
/// as the socket's own limits of time allow. Where the connection is encrypted, a call may take
/// several, and none begins after the end that was given for the whole.
#[derive(Debug)]
pub struct Stream {
    socket: TcpStream,
    secure: Option<Box<Secure>>,
    /// No step of receiving begins after this.
    until: Instant,
    /// What was said and not yet read.
    plain: Vec<u8>,
}

impl Stream {
    /// This side of a connection to a node, encrypted if `tls` is given. Shakes hands.
    ///
    /// # Errors
    /// The socket's; or why the other side is not a node that can be trusted.
    pub fn dial(socket: TcpStream, tls: Option<&Tls>, until: Instant) -> io::Result<Stream> {
        let secure = tls.map(|tls| Box::new(tls.dial()));
        Stream::begin(socket, secure, until)
    }

    /// This side of a connection that somebody has made. It is not encrypted if he does not begin
    /// so, even if `tls` is given.
    ///
    /// # Errors
    /// The socket's; or why he is not to be trusted.
    pub fn accept(socket: TcpStream, tls: Option<&Tls>, until: Instant) -> io::Result<Stream> {
        let mut first = [0];
        let secure = match tls {
            Some(tls) if socket.peek(&mut first)? == 1 && first == [HANDSHAKE] => {
                Some(Box::new(tls.accept()))
            }
            _ => None,
        };
        Stream::begin(socket, secure, until)
    }

    fn begin(socket: TcpStream, secure: Option<Box<Secure>>, until: Instant) -> io::Result<Stream> {
        let mut stream = Stream { socket, secure, until, plain: Vec::new() };
        stream.flush()?;
        while stream.secure.as_ref().is_some_and(|secure| secure.is_handshaking()) {
            if stream.receive()? == 0 {
                let text = "disconnected before the TLS handshake was over";
                return Err(io::Error::new(ErrorKind::UnexpectedEof, text));
            }
        }
        Ok(stream)
    }

    /// What is known about who is at the other end; nothing without TLS.
    pub fn secure(&self) -> Option<&Secure> {
        self.secure.as_deref()
    }

    /// For its limits of time.
    pub fn socket(&self) -> &TcpStream {
        &self.socket
    }

    /// The socket, and what stands between it and what is said. For whoever has heard nothing yet.
    ///
    /// # Errors
    /// The other side has spoken already, which a node does not.
    pub fn into_parts(self) -> io::Result<(TcpStream, Option<Box<Secure>>)> {
        if !self.plain.is_empty() {
            let text = "it speaks first: is it a margay node?";
            return Err(io::Error::new(ErrorKind::InvalidData, text));
        }
        Ok((self.socket, self.secure))
    }

    /// Receives something and sends what has to be said because of it. Returns how many bytes came;
    /// 0 at the end.
    fn receive(&mut self) -> io::Result<usize> {
        let Some(secure) = &mut self.secure else { return Ok(0) };
        if Instant::now() >= self.until {
            return Err(ErrorKind::TimedOut.into());
        }
        let mut chunk = [0; CHUNK];
        let got = self.socket.read(&mut chunk)?;
        let fed = secure.feed(&chunk[..got], &mut self.plain);
        // The other side may have gone already; what it has said counts more.
        let sent = self.flush();
        fed.map_err(io::Error::other)?;
        sent.map(|()| got)
    }
}

impl Read for Stream {
    fn read(&mut self, room: &mut [u8]) -> io::Result<usize> {
        if self.secure.is_none() {
            return self.socket.read(room);
        }
        while self.plain.is_empty() {
            if self.receive()? == 0 {
                return Ok(0);
            }
        }
        let length = room.len().min(self.plain.len());
        room[..length].copy_from_slice(&self.plain[..length]);
        self.plain.drain(..length);
        Ok(length)
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(secure) = &mut self.secure else { return self.socket.write(bytes) };
        secure.put(bytes);
        self.flush()?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(secure) = &mut self.secure else { return Ok(()) };
        let mut cipher = Vec::new();
        secure.drain(&mut cipher);
        self.socket.write_all(&cipher)
    }
}
