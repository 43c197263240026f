use super::*;

fn member(n: u32) -> Member {
    let incarnation = Incarnation(0x1000 + u64::from(n));
    Member { id: NodeId(n), name: format!("n{n}"), address: format!("h{n}:5150"), incarnation }
}

fn three() -> Membership {
    Membership::founding((1..=3).map(member).collect())
}

fn add(n: u32) -> Change {
    let Member { name, address, incarnation, .. } = member(n);
    Change::Add { name, address, incarnation, id: None }
}

fn changed(membership: &Membership, change: &Change) -> Membership {
    membership.changed(change).expect("it makes sense").expect("it changes something")
}

/// Golden: entries of shipped logs must stay readable.
#[test]
fn a_membership_keeps_its_bytes() {
    let learner = changed(&three(), &add(4));
    let joint = changed(&learner, &Change::Promote("n4".to_owned()));
    let joint = joint.with("n1", Standing::Leaving);
    let mut golden = b"\x01\0\x04\0\0\0\0\0\x05\0\0\0".to_vec();
    for (n, standing) in [(1_u8, 5_u8), (2, 1), (3, 1), (4, 3)] {
        golden.extend_from_slice(&[n, 0x10, 0, 0, 0, 0, 0, 0, n, 0, 0, 0, standing, 2, 7, 0]);
        golden.extend_from_slice(format!("n{n}h{n}:5150").as_bytes());
    }
    assert_eq!(joint.encode(), golden);
    assert_eq!(Membership::decode(&golden), Ok(joint.clone()));

    let ended = joint.ended();
    let golden = b"\x01\0\x03\0\x01\0\0\0\x05\0\0\0\x01\0\0\0\x02n1";
    assert_eq!(&ended.encode()[..19], golden);
    assert_eq!(Membership::decode(&ended.encode()), Ok(ended));
}

#[test]
fn damaged_bytes_are_refused_or_another_membership() {
    let whole = changed(&three(), &Change::Remove("n1".to_owned())).ended();
    let whole = changed(&whole, &add(4)).encode();
    for at in 0..whole.len() {
        assert!(Membership::decode(&whole[..at]).is_err(), "cut at {at}");
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[at] ^= 1 << bit;
            if let Ok(read) = Membership::decode(&damaged) {
                assert_eq!(read.encode(), damaged, "read as something else at {at}");
                assert!(!read.configuration().voters().is_empty());
            }
        }
    }
}

#[test]
fn a_change_of_voters_has_two_steps() {
    let four = changed(&three(), &add(4));
    let ids = |list: &[NodeId]| list.iter().map(|id| id.0).collect::<Vec<_>>();
    assert!(!four.is_joint());
    assert_eq!(ids(four.configuration().learners()), [4]);

    let joint = changed(&four, &Change::Promote("n4".to_owned()));
    let counts = joint.configuration();
    assert_eq!((ids(counts.voters()), ids(counts.outgoing())), (vec![1, 2, 3, 4], vec![1, 2, 3]));
    assert!(four.configuration().may_become(&counts));
    assert!(counts.may_become(&joint.ended().configuration()));
    let four = joint.ended();

    let joint = changed(&four, &Change::Demote("n2".to_owned()));
    let counts = joint.configuration();
    assert_eq!((ids(counts.voters()), ids(counts.outgoing())), (vec![1, 3, 4], vec![1, 2, 3, 4]));
    assert_eq!(ids(counts.learners()), [0; 0], "it votes until the change ends");
    assert_eq!(ids(joint.ended().configuration().learners()), [2]);

    let removed = changed(&joint.ended(), &Change::Remove("n2".to_owned()));
    assert!(!removed.is_joint() && removed.member(NodeId(2)).is_none());
    assert!(removed.is_removed(NodeId(2)));
}

#[test]
fn what_is_so_already_changes_nothing() {
    let four = changed(&three(), &add(4));
    for change in [
        add(4),
        Change::Promote("n1".to_owned()),
        Change::Demote("n4".to_owned()),
        Change::Remove("n9".to_owned()),
    ] {
        assert_eq!(four.changed(&change), Ok(None), "{change:?}");
    }
}

#[test]
fn what_makes_no_sense_is_refused_with_its_reason() {
    let refusal = |membership: &Membership, change: &Change| {
        membership.changed(change).expect_err("it makes no sense").to_string()
    };
    let other = Change::Add {
        name: "n1".to_owned(),
        address: "h9:1".to_owned(),
        incarnation: Incarnation(7),
        id: None,
    };
    let known = "n1 is known with another disk; remove it, then use --join";
    assert_eq!(refusal(&three(), &other), known);
    let mut renamed = member(1);
    renamed.name = "m".to_owned();
    let renamed = Change::Add {
        name: renamed.name,
        address: renamed.address,
        incarnation: renamed.incarnation,
        id: None,
    };
    assert_eq!(refusal(&three(), &renamed), "this disk belongs to n1");
    let unknown = Change::Promote("n9".to_owned());
    assert_eq!(refusal(&three(), &unknown), "n9 is not a member; add it first");
    let alone = Membership::founding(vec![member(1)]);
    let last = "n1 is the only voter; promote another node first";
    assert_eq!(refusal(&alone, &Change::Remove("n1".to_owned())), last);
    assert_eq!(refusal(&alone, &Change::Demote("n1".to_owned())), last);
}

#[test]
fn a_number_is_never_given_twice() {
    let four = changed(&three(), &add(4));
    let without = changed(&four, &Change::Remove("n4".to_owned()));
    let again = changed(&without, &add(4));
    assert_eq!(again.find("n4").map(|(member, _)| member.id), Some(NodeId(5)));
    let Change::Add { name, address, incarnation, .. } = add(4) else { unreachable!() };
    assert_eq!(without.number_of("n4"), Some(NodeId(4)));
    assert_eq!((again.number_of("n4"), again.number_of("n9")), (Some(NodeId(5)), None));
    let chosen = Change::Add { name, address, incarnation, id: Some(NodeId(4)) };
    assert_eq!(without.changed(&chosen), Err(Senseless::Number { id: NodeId(4) }));
}

#[test]
fn a_new_address_is_a_change_of_its_own() {
    let Change::Add { name, incarnation, .. } = add(3) else { unreachable!() };
    let moved = Change::Add { name, address: "elsewhere:1".to_owned(), incarnation, id: None };
    let moved = changed(&three(), &moved);
    assert_eq!(moved.member(NodeId(3)).map(|member| member.address.as_str()), Some("elsewhere:1"));
    assert_eq!(moved.configuration(), three().configuration());
}
