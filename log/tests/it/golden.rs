//! The bytes of format version 1, for good: whoever changes them needs a new version and a way to
//! read the old one. `MARGAY_BLESS=1` writes the files anew.

use std::fmt::Write;
use std::path::PathBuf;

use margay_log::format::{BatchHeader, EntryHeader, Frame, SegmentHeader};
use margay_log::hard_state::{HardState, Newest};
use margay_log::id::{
    BatchEnd, Chain, ClusterId, EntryId, GroupId, Incarnation, Index, Position, SegmentNumber, Term,
};

/// Lines of sixteen bytes with their offset; lines of zeros are left out.
fn dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (at, line) in bytes.chunks(16).enumerate().filter(|(_, line)| line.iter().any(|&b| b != 0))
    {
        write!(text, "{:04x}:", at * 16).expect("a string takes all");
        for byte in line {
            write!(text, " {byte:02x}").expect("a string takes all");
        }
        text.push('\n');
    }
    text
}

fn check(name: &str, bytes: &[u8]) {
    let file = format!("{name}.hex");
    let path: PathBuf = [env!("CARGO_MANIFEST_DIR"), "tests/it/golden", &file].iter().collect();
    let found = dump(bytes);
    if std::env::var_os("MARGAY_BLESS").is_some() {
        std::fs::write(&path, &found).expect("the golden files can be written");
    }
    let golden = std::fs::read_to_string(&path).expect("a golden file");
    assert_eq!(found, golden, "{name} has changed");
}

fn position() -> Position {
    Position { segment: SegmentNumber(0x0102_0304_0506_0708), offset: 0x1112_1314_1516_1000 }
}

#[test]
fn batch_header() {
    let mut header = BatchHeader {
        cluster: ClusterId(0x0102_0304_0506_0708),
        group: GroupId(0x1112_1314),
        count: 3,
        term: Term(0x2122_2324_2526_2728),
        first: Index(0x3132_3334_3536_3738),
        log_time: 0x4142_4344_4546_4748,
        length: 0x0001_0200,
        body_crc: 0x5152_5354,
        chain: Chain(0),
    };
    header.chain = header.chain_behind(Chain(0x6162_6364));
    check("batch_header", &header.encode());
    assert_eq!(BatchHeader::decode(&header.encode()), Ok(header));
    assert!(header.follows(Chain(0x6162_6364)) && !header.follows(Chain(0)));
    let last = EntryId::new(header.term, Index(0x3132_3334_3536_373a));
    assert_eq!((header.prev(), header.last()), (Index(0x3132_3334_3536_3737), last));
}

#[test]
fn entry_header() {
    let header = EntryHeader {
        length: 0x0001_0203,
        kind: 0x11,
        flags: 0x12,
        schema: 0x1314,
        resource: 0x2122_2324_2526_2728,
        session: 0x3132_3334_3536_3738,
        sequence: 0x4142_4344_4546_4748,
        acked: 0x5152_5354_5556_5758,
    };
    check("entry_header", &header.encode());
    assert_eq!(EntryHeader::decode(&header.encode()), Ok(header));
}

#[test]
fn frame() {
    let frame = Frame {
        incarnation: Incarnation(0x2122_2324_2526_2728),
        position: position(),
        length: 0x0001_0240,
        durable: Index(0x3132_3334_3536_3738),
        durable_chain: Chain(0x4142_4344),
        hard_state: 0x5152_5354_5556_5758,
    };
    check("frame", &frame.encode(0x6162_6364));
    assert_eq!(Frame::decode(&frame.encode(0x6162_6364), 0x6162_6364), Ok(frame));
    assert!(Frame::decode(&frame.encode(0x6162_6364), 0).is_err());
}

#[test]
fn segment_header() {
    let header = SegmentHeader {
        incarnation: Incarnation(0x2122_2324_2526_2728),
        cluster: ClusterId(0x3132_3334_3536_3738),
        group: GroupId(0x4142_4344),
        segment: SegmentNumber(0x5152_5354_5556_5758),
        size: 0x0100_0000,
        former: SegmentNumber(0),
        salt: 0x6162_6364,
    };
    let mut block = vec![0xff; 4096];
    header.encode(&mut block);
    check("segment_header", &block);
    assert_eq!(SegmentHeader::decode(&block), Ok(header));
}

#[test]
fn hard_state() {
    let end = |base: u64| BatchEnd {
        id: EntryId::new(Term(base), Index(base + 1)),
        chain: Chain(base as u32 + 2),
    };
    let state = HardState {
        incarnation: Incarnation(0x2122_2324_2526_2728),
        cluster: ClusterId(0x3132_3334_3536_3738),
        group: GroupId(0x4142_4344),
        salt: 0x5152_5354,
        update: 0x6162_6364_6566_6768,
        durable: end(0x7172_7374_7576_7778),
        position: position(),
        end: Index(0x7374_7576_7778_797a),
        start: end(0x0102_0304_0506_0708),
        from: Position { segment: SegmentNumber(1), offset: 4096 },
        repair: Index(0x0a0b_0c0d_0e0f_1011),
        meta: (1..=40).collect(),
    };
    let mut block = vec![0xff; 4096];
    state.encode(&mut block);
    check("hard_state", &block);
    assert_eq!(HardState::decode(&block).as_ref(), Ok(&state));
    let file = state.encode_file();
    assert_eq!(HardState::newest(&file), Ok(Newest { state, pair: 0, has_twin: true }));
}

/// A whole log as it lies on disk, made by the code that makes logs.
#[cfg(feature = "sim")]
#[test]
fn segment() {
    use margay_log::disk::Disk;
    use margay_log::recover::Storage;

    let mut disk = margay_log::disk::sim::SimDisk::new(1);
    let options = margay_log::Options {
        cluster: ClusterId(0x0102_0304_0506_0708),
        group: GroupId(0x1112_1314),
        incarnation: Incarnation(0x2122_2324_2526_2728),
        segment_first: 64 << 10,
        ..margay_log::Options::default()
    };
    let mut log = margay_log::open(&mut disk, options).expect("a new log").log;
    for (term, words) in [(1, &["one", "two"][..]), (1, &["a payload of some length"]), (2, &[""])]
    {
        for word in words {
            let header = EntryHeader { kind: 16, session: 5, ..EntryHeader::default() };
            log.push(&header, word.as_bytes()).expect("fits");
        }
        log.seal(Term(term), 1_000_000).expect("space");
    }
    log.ops().for_each(|op| disk.submit(op));
    while disk.in_flight().len() > 0 {
        disk.complete(0);
    }
    let mut bytes = vec![0; 5 * 4096];
    disk.read(SegmentNumber(1), 0, &mut bytes).expect("it is there");
    check("segment", &bytes);
}

#[test]
fn snapshot() {
    use margay_log::snapshot::{SnapshotHeader, SnapshotMaker};
    let header = SnapshotHeader {
        cluster: ClusterId(0x0102_0304_0506_0708),
        group: GroupId(0x1112_1314),
        end: margay_log::id::BatchEnd {
            id: EntryId::new(Term(0x2122_2324_2526_2728), Index(0x3132_3334_3536_3738)),
            chain: Chain(0x4142_4344),
        },
        log_time: 0x5152_5354_5556_5758,
        meta: b"membership".to_vec(),
        ..SnapshotHeader::default()
    };
    let mut maker = SnapshotMaker::new(header);
    let (offset, chunk) = maker.chunk(b"a state");
    assert_eq!((offset, chunk.len()), (16384, 4096));
    check("snapshot_chunk", &chunk);
    check("snapshot_header", &maker.header().encode());
    assert_eq!(SnapshotHeader::decode(&maker.header().encode()).as_ref(), Ok(maker.header()));
}
