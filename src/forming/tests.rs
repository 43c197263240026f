use super::*;

fn peers(count: u64) -> Vec<Peer> {
    (1..=count)
        .map(|n| Peer { name: format!("n{n}"), address: format!("127.0.0.1:{}", 5_150 + n) })
        .collect()
}

fn offer(n: u64, count: u64) -> Offer {
    Offer {
        name: format!("n{n}"),
        incarnation: Incarnation(100 + n),
        peers: peers_text(&peers(count)),
        ask: Ask { shards: 4, groups: 0 },
    }
}

fn step(forming: &mut Forming, now: u64, input: Input) -> Vec<Output> {
    let mut out = Vec::new();
    forming.step(Micros(now), input, &mut out);
    out
}

/// Golden: bytes and hash of a record must never change, or clusters would lose their names.
#[test]
fn a_record_keeps_its_bytes_and_its_hash() {
    let founders = vec![
        Founder { name: "b".into(), address: "h:2".into(), incarnation: Incarnation(2) },
        Founder { name: "a".into(), address: "h:1".into(), incarnation: Incarnation(1) },
    ];
    let record = FoundingRecord::new(3, founders).expect("a right record");
    let mut golden = b"MGYFOUND\x01\0\x02\0\x03\0\0\0".to_vec();
    golden.extend_from_slice(b"\x01\0\0\0\0\0\0\0\x01\0a\x03\0h:1");
    golden.extend_from_slice(b"\x02\0\0\0\0\0\0\0\x01\0b\x03\0h:2");
    assert_eq!(record.encode(), golden);
    assert_eq!(FoundingRecord::decode(&golden), Ok(record.clone()));
    assert_eq!(record.node("a"), Some(NodeId(1)));
    assert_eq!(record.node("b"), Some(NodeId(2)));
    assert_eq!(record.cluster().to_string(), GOLDEN_CLUSTER);
}

const GOLDEN_CLUSTER: &str = "106967e8849a9eb5";

#[test]
fn no_cut_or_flipped_record_is_taken_for_another() {
    let founders = peers(3).into_iter().map(|peer| Founder {
        name: peer.name,
        address: peer.address,
        incarnation: Incarnation(7),
    });
    let record = FoundingRecord::new(6, founders.collect()).expect("a right record");
    let bytes = record.encode();
    for end in 0..bytes.len() {
        assert!(FoundingRecord::decode(&bytes[..end]).is_err());
    }
    for at in 0..bytes.len() {
        let mut other = bytes.clone();
        other[at] ^= 0x41;
        if let Ok(read) = FoundingRecord::decode(&other) {
            assert_ne!(read.cluster(), record.cluster());
        }
    }
}

/// Three founders, offers in every order: one and the same record everywhere.
#[test]
fn founders_that_agree_make_the_same_record() {
    let mut records = Vec::new();
    for own in 1..=3_u64 {
        for turned in [false, true] {
            let mut others: Vec<u64> = (1..=3).filter(|n| *n != own).collect();
            if turned {
                others.reverse();
            }
            let mut forming = Forming::new(offer(own, 3), peers(3));
            let asks = step(&mut forming, 1, Input::Tick);
            assert_eq!(asks.len(), 2);
            assert!(step(&mut forming, 2, Input::Offer(offer(others[0], 3))).is_empty());
            let out = step(&mut forming, 3, Input::Offer(offer(others[1], 3)));
            let [Output::Formed(record)] = &out[..] else { panic!("{out:?}") };
            records.push(record.clone());
            assert!(step(&mut forming, 4, Input::Tick).is_empty());
        }
    }
    assert!(records.windows(2).all(|two| two[0] == two[1]));
    assert_eq!(records[0].groups(), 12, "three nodes with four shards each");
}

#[test]
fn the_smallest_founder_and_explicit_groups_decide() {
    let mut small = offer(2, 2);
    small.ask.shards = 1;
    let mut forming = Forming::new(offer(1, 2), peers(2));
    let out = step(&mut forming, 0, Input::Offer(small.clone()));
    assert!(matches!(&out[..], [Output::Formed(record)] if record.groups() == 2));

    small.ask.groups = 5;
    let mut forming = Forming::new(offer(1, 2), peers(2));
    let out = step(&mut forming, 0, Input::Offer(small.clone()));
    assert!(matches!(&out[..], [Output::Formed(record)] if record.groups() == 5));

    let mut own = offer(1, 2);
    own.ask.groups = 4;
    let mut forming = Forming::new(own, peers(2));
    let out = step(&mut forming, 0, Input::Offer(small));
    let Output::Disagrees(why) = &out[0] else { panic!("{out:?}") };
    assert_eq!(why.to_string(), "n2 was started with --groups 5, n1 with --groups 4");
    assert!(!why.is_final());
}

/// A founder with another list is named, once, and may come back with the right one.
#[test]
fn a_founder_with_another_list_can_be_started_anew() {
    let mut forming = Forming::new(offer(1, 3), peers(3));
    let mut wrong = offer(2, 3);
    wrong.peers = peers_text(&peers(2));
    let out = step(&mut forming, 0, Input::Offer(wrong.clone()));
    let said = out.iter().filter(|o| matches!(o, Output::Disagrees(_))).count();
    assert_eq!(said, 1);
    let text = forming.disagreement("n2").map(ToString::to_string).unwrap_or_default();
    assert_eq!(
        text,
        "n2 was started with --peers n1=127.0.0.1:5151,n2=127.0.0.1:5152, this node with --peers \
         n1=127.0.0.1:5151,n2=127.0.0.1:5152,n3=127.0.0.1:5153"
    );
    assert!(step(&mut forming, 1, Input::Offer(wrong)).is_empty(), "said once");
    step(&mut forming, 2, Input::Offer(offer(3, 3)));
    assert_eq!(forming.waiting().collect::<Vec<_>>(), ["n2"]);
    let out = step(&mut forming, 3, Input::Offer(offer(2, 3)));
    assert!(matches!(&out[..], [Output::Formed(_)]));
}

#[test]
fn a_wiped_founder_is_told_that_it_is_known_with_another_disk() {
    let mut forming = Forming::new(offer(1, 2), peers(2));
    let out = step(&mut forming, 0, Input::Offer(offer(2, 2)));
    let [Output::Formed(record)] = &out[..] else { panic!("{out:?}") };

    let mut wiped = offer(2, 2);
    wiped.incarnation = Incarnation(999);
    let mut again = Forming::new(wiped, peers(2));
    let out = step(&mut again, 0, Input::Record(record.clone()));
    let Output::Disagrees(why) = &out[0] else { panic!("{out:?}") };
    assert!(why.is_final());
    assert!(why.to_string().starts_with("n2 is known with another disk in cluster "));

    // With the right disk it takes the record over.
    let mut late = Forming::new(offer(2, 2), peers(2));
    let out = step(&mut late, 0, Input::Record(record.clone()));
    assert_eq!(out, [Output::Formed(record.clone())]);
}

/// The third founder has made itself known to the first alone, and is gone for good: the second
/// hears from the first what the two of them have founded.
#[test]
fn who_has_agreed_is_asked_until_the_cluster_is_founded() {
    let mut first = Forming::new(offer(1, 3), peers(3));
    step(&mut first, 0, Input::Offer(offer(2, 3)));
    let out = step(&mut first, 0, Input::Offer(offer(3, 3)));
    let [Output::Formed(record)] = &out[..] else { panic!("{out:?}") };

    let mut second = Forming::new(offer(2, 3), peers(3));
    step(&mut second, 0, Input::Offer(offer(1, 3)));
    assert_eq!(second.waiting().collect::<Vec<_>>(), ["n3"]);
    let asked = step(&mut second, FORMING_PAUSE.0, Input::Tick);
    assert!(asked.contains(&Output::Ask(peers(3)[0].clone())), "{asked:?}");
    let out = step(&mut second, FORMING_PAUSE.0, Input::Record(record.clone()));
    assert_eq!(out, [Output::Formed(record.clone())]);
}

#[test]
fn a_second_node_of_the_same_name_is_noticed() {
    let mut forming = Forming::new(offer(1, 2), peers(2));
    let mut twin = offer(1, 2);
    twin.incarnation = Incarnation(5);
    let out = step(&mut forming, 0, Input::Offer(twin));
    assert!(matches!(&out[0], Output::Disagrees(Disagreement::SameName { .. })));
}

#[test]
fn strangers_decide_nothing_and_are_not_remembered_without_end() {
    let mut forming = Forming::new(offer(1, 2), peers(2));
    let mut stranger = offer(9, 2);
    stranger.ask = Ask { shards: 1, groups: 7 };
    assert!(step(&mut forming, 1, Input::Offer(stranger.clone())).len() <= 1, "asked for nothing");
    stranger.peers = "x=h:1".into();
    for n in 0..1_000 {
        stranger.name = format!("s{n}");
        step(&mut forming, 2, Input::Offer(stranger.clone()));
    }
    assert!(forming.disagrees.len() <= 2 * FOUNDERS_MAX);
    let out = step(&mut forming, 3, Input::Offer(offer(2, 2)));
    assert!(matches!(&out[..], [Output::Formed(record)] if record.groups() == 8), "{out:?}");
}
