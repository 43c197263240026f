//! The founding, with plain blocking sockets: exchanges offers until the cluster is founded.
//!
//! Runs before any shard. Each exchange has a thread of its own and an end in time, so that a
//! founder that is slow, away or hostile delays nobody else.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use margay_log::id::{ClusterId, GroupId, Incarnation, NodeId};

use crate::config;
use crate::error::Error;
use crate::forming::{Ask, Forming, FoundingRecord, Input, Offer, Output, Peer};
use crate::machine::Code;
use crate::shard::{bar, sys};
use crate::tls::{Secure, Stream, Tls};
use crate::wire::{self, HEADER, HELLO_BYTES, Hello, HelloKind, forming::Forming as Message};

/// Strangers that are listened to at the same time.
const GUESTS_MAX: usize = 64;
/// How often somebody waiting is told for whom.
const PROGRESS: Duration = Duration::from_secs(5);

/// Founds the cluster, or finds out that it cannot.
pub(super) fn found(
    mut forming: Forming,
    listener: &TcpListener,
    tls: Option<&Tls>,
    stop: &AtomicBool,
) -> Result<FoundingRecord, Error> {
    let own = Arc::new(forming.offer().clone());
    let (inputs, heard) = channel();
    let guests = Arc::new(AtomicUsize::new(0));
    let tls = tls.cloned();
    let mut table = Table { own, tls, inputs, guests, asking: Vec::new(), said: None };
    let begun = Instant::now();
    loop {
        if stop.load(Ordering::SeqCst) {
            return Err(Error::Interrupted);
        }
        table.receive_guests(listener);
        let mut out = Vec::new();
        for input in next_inputs(&heard) {
            forming.step(sys::now(), input, &mut out);
        }
        for output in out {
            match output {
                Output::Ask(peer) => table.ask(peer),
                Output::Formed(record) => return Ok(record),
                Output::Disagrees(why) if why.is_final() => {
                    return Err(Error::Forming(why.to_string()));
                }
                Output::Disagrees(why) => tracing::warn!("{why}"),
            }
        }
        table.say_progress(&forming, begun);
    }
}

/// What has been heard, after a short wait, and always the passing of time.
fn next_inputs(heard: &Receiver<Input>) -> Vec<Input> {
    let mut inputs: Vec<Input> =
        heard.recv_timeout(Duration::from_millis(20)).into_iter().collect();
    inputs.extend(heard.try_iter());
    inputs.push(Input::Tick);
    inputs
}

/// The exchanges under way.
struct Table {
    own: Arc<Offer>,
    tls: Option<Tls>,
    inputs: Sender<Input>,
    guests: Arc<AtomicUsize>,
    /// Whom a thread is asking at the moment.
    asking: Vec<(String, Arc<AtomicBool>)>,
    said: Option<Instant>,
}

impl Table {
    /// Asks a founder, unless that is under way.
    fn ask(&mut self, peer: Peer) {
        self.asking.retain(|(_, done)| !done.load(Ordering::SeqCst));
        if self.asking.iter().any(|(name, _)| *name == peer.name) {
            return;
        }
        let done = Arc::new(AtomicBool::new(false));
        self.asking.push((peer.name.clone(), Arc::clone(&done)));
        let (own, tls, inputs) = (Arc::clone(&self.own), self.tls.clone(), self.inputs.clone());
        std::thread::spawn(move || {
            match ask(&own, &peer.address, tls.as_ref()) {
                Ok(input) => drop(inputs.send(input)),
                Err(e) => tracing::debug!(peer = peer.name, "no answer from founder: {e}"),
            }
            done.store(true, Ordering::SeqCst);
        });
    }

    /// Answers whoever connects.
    fn receive_guests(&mut self, listener: &TcpListener) {
        while let Ok((stream, _)) = listener.accept() {
            if self.guests.load(Ordering::SeqCst) >= GUESTS_MAX {
                return;
            }
            self.guests.fetch_add(1, Ordering::SeqCst);
            let (own, tls, inputs) = (Arc::clone(&self.own), self.tls.clone(), self.inputs.clone());
            let guests = Arc::clone(&self.guests);
            std::thread::spawn(move || {
                match answer(&own, stream, tls.as_ref()) {
                    Ok(input) => drop(inputs.send(input)),
                    Err(e) => tracing::debug!("not a founder: {e}"),
                }
                guests.fetch_sub(1, Ordering::SeqCst);
            });
        }
    }

    fn say_progress(&mut self, forming: &Forming, begun: Instant) {
        let last = *self.said.get_or_insert(begun);
        if last.elapsed() < PROGRESS {
            return;
        }
        self.said = Some(Instant::now());
        let waiting: Vec<String> = forming
            .waiting()
            .map(|name| match forming.disagreement(name) {
                Some(why) => format!("{name} ({why})"),
                None => name.to_owned(),
            })
            .collect();
        tracing::info!("waiting for {}", waiting.join(", "));
    }
}

/// Connects to a founder: offers are exchanged, or it answers with its record.
fn ask(own: &Offer, address: &str, tls: Option<&Tls>) -> io::Result<Input> {
    let limit = Duration::from_micros(config::FORMING_TIME.0);
    let mut last = io::Error::from(io::ErrorKind::NotFound);
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, limit / 4) {
            Ok(socket) => {
                set_limits(&socket)?;
                let until = Instant::now() + limit;
                let mut stream = Stream::dial(socket, tls, until)?;
                stream.write_all(&speech(own))?;
                return listen(&mut stream, until);
            }
            Err(e) => last = e,
        }
    }
    Err(last)
}

/// What the node at `address` and the others have founded.
pub(super) fn record_of(
    name: &str,
    incarnation: Incarnation,
    address: &str,
    tls: Option<&Tls>,
) -> io::Result<FoundingRecord> {
    let (name, peers, ask_for) = (name.to_owned(), String::new(), Ask { shards: 0, groups: 0 });
    match ask(&Offer { name, incarnation, peers, ask: ask_for }, address, tls)? {
        Input::Record(record) => Ok(record),
        _ => Err(invalid("it has not founded a cluster yet")),
    }
}

/// Somebody has connected: hears him out first, then answers.
fn answer(own: &Offer, socket: TcpStream, tls: Option<&Tls>) -> io::Result<Input> {
    set_limits(&socket)?;
    let until = Instant::now() + Duration::from_micros(config::FORMING_TIME.0);
    let mut stream = Stream::accept(socket, tls, until)?;
    let hello = read_hello(&mut stream, until)?;
    let shown = stream.secure().map(Secure::role);
    if tls.is_some()
        && let Some(code) = bar(shown, hello.kind)
    {
        stream.write_all(&Hello { code, ..own_hello(own, hello.kind) }.encode())?;
        return Err(invalid(code));
    }
    if hello.kind != HelloKind::Forming {
        // Clients and nodes of a founded cluster: not yet.
        let code = Code::NO_LEADER;
        stream.write_all(&Hello { code, ..own_hello(own, hello.kind) }.encode())?;
        return Err(io::ErrorKind::InvalidData.into());
    }
    let input = read_message(&mut stream, until)?;
    // Anybody can connect: only a founder that was asked, where the list says it is, tells of a
    // record, which can end the forming.
    if matches!(input, Input::Record(_)) {
        return Err(invalid("a record that nobody asked for"));
    }
    stream.write_all(&speech(own))?;
    Ok(input)
}

fn set_limits(stream: &TcpStream) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    stream.set_nodelay(true)?;
    let step = Some(Duration::from_micros(config::FORMING_TIME.0) / 4);
    stream.set_read_timeout(step)?;
    stream.set_write_timeout(step)
}

fn own_hello(own: &Offer, kind: HelloKind) -> Hello {
    Hello {
        kind,
        group: GroupId(0),
        cluster: ClusterId(0),
        node: NodeId(0),
        groups: 0,
        incarnation: own.incarnation,
        code: Code::OK,
        port: 0,
    }
}

/// Hello and offer.
fn speech(own: &Offer) -> Vec<u8> {
    let mut out = own_hello(own, HelloKind::Forming).encode().to_vec();
    let Offer { name, incarnation, peers, ask } = own;
    let groups = ask.number();
    Message::Offer { name, incarnation: *incarnation, peers, groups }.encode(&mut out);
    out
}

fn listen(stream: &mut Stream, until: Instant) -> io::Result<Input> {
    let hello = read_hello(stream, until)?;
    if hello.kind != HelloKind::Forming || !hello.code.is_ok() {
        return Err(invalid(hello.code));
    }
    read_message(stream, until)
}

fn read_hello(stream: &mut Stream, until: Instant) -> io::Result<Hello> {
    let mut bytes = [0; HELLO_BYTES];
    let mut have = 0;
    while Hello::peek(&bytes[..have]).map_err(|e| refuse(stream, e))?.is_none() {
        have += read_some(stream, &mut bytes[have..], until)?;
    }
    Hello::decode(&bytes).map_err(invalid)
}

/// Tells a stranger in his own words where he is.
fn refuse(stream: &mut Stream, error: wire::Error) -> io::Error {
    if let wire::Error::Foreign(foreign) = error {
        // He may be gone already.
        let _ = stream.write_all(foreign.answer());
    }
    invalid(error)
}

fn read_message(stream: &mut Stream, until: Instant) -> io::Result<Input> {
    let mut header = [0; HEADER];
    read_all(stream, &mut header, until)?;
    let length = wire::peek(&header).map_err(invalid)?.unwrap_or(0);
    if length > config::FORMING_BYTES_MAX + HEADER {
        return Err(invalid("too long for an offer"));
    }
    let mut bytes = vec![0; length.max(HEADER)];
    bytes[..HEADER].copy_from_slice(&header);
    read_all(stream, &mut bytes[HEADER..], until)?;
    let frame = wire::decode(&bytes).map_err(invalid)?;
    match Message::decode(&frame).map_err(invalid)? {
        Message::Offer { name, incarnation, peers, groups } => Ok(Input::Offer(Offer {
            name: name.to_owned(),
            incarnation,
            peers: peers.to_owned(),
            ask: Ask::from_number(groups),
        })),
        Message::Founded { record } => {
            FoundingRecord::decode(record).map(Input::Record).map_err(invalid)
        }
    }
}

fn read_all(stream: &mut Stream, mut room: &mut [u8], until: Instant) -> io::Result<()> {
    while !room.is_empty() {
        let got = read_some(stream, room, until)?;
        room = &mut room[got..];
    }
    Ok(())
}

fn read_some(stream: &mut Stream, room: &mut [u8], until: Instant) -> io::Result<usize> {
    if Instant::now() >= until {
        return Err(io::ErrorKind::TimedOut.into());
    }
    match stream.read(room)? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        got => Ok(got),
    }
}

fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forming::Founder;

    /// A record that does not know this node would end it.
    #[test]
    fn a_guest_cannot_tell_of_a_record() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let mut guest = TcpStream::connect(listener.local_addr().expect("bound")).expect("heard");
        let (stream, _) = listener.accept().expect("connected");
        let (name, incarnation) = ("n1".to_owned(), Incarnation(1));
        let ask = Ask { shards: 1, groups: 0 };
        let own = Offer { name, incarnation, peers: "n1=h:1".to_owned(), ask };
        let (name, address) = ("n9".to_owned(), "h:9".to_owned());
        let founder = Founder { name, address, incarnation: Incarnation(9) };
        let record = FoundingRecord::new(1, vec![founder]).expect("a right record").encode();
        let mut said = own_hello(&own, HelloKind::Forming).encode().to_vec();
        Message::Founded { record: &record }.encode(&mut said);
        guest.write_all(&said).expect("heard");
        let error = answer(&own, stream, None).expect_err("it is not believed");
        assert_eq!(error.to_string(), "a record that nobody asked for");
    }
}
