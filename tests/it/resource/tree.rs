//! The document tree: against a plain model, and case by case.

use super::handles::Near;
use margay::machine::{Code, Outcome, SessionId, kind};
use margay::resource::tree::{Children, TreeEvent, path};
use margay::resource::{Removal, Swap, Tree};
use margay_log::id::Index;
use proptest::prelude::*;
use std::collections::BTreeMap;

fn tree() -> (Near, Near, Tree<Near>) {
    let (one, two) = Near::pair();
    let tree = Tree::open(one.clone(), "config").wait().unwrap();
    (one, two, tree)
}

fn is_done<T>(swap: Swap<T>) -> bool {
    matches!(swap, Swap::Done(_))
}

fn names(tree: &Tree<Near>, path: &str) -> Vec<String> {
    tree.children(path, None, 0).wait().unwrap().expect("the node is there").names
}

/// What is done in parts has changed something when a part behind the first is refused.
#[test]
fn a_part_that_is_refused_does_not_mean_that_nothing_is_gone() {
    let (one, _, tree) = tree();
    for path in ["/a", "/a/b"] {
        assert!(is_done(tree.create(path, b"").wait().unwrap()));
    }
    let all = |is_cut_off: bool| {
        one.hold();
        let deleted = tree.delete_all("/a");
        one.far().is_loaded = is_cut_off;
        one.let_go();
        let ended = deleted.wait();
        one.far().is_loaded = false;
        ended.map_err(|failure| (failure.code, failure.outcome))
    };
    assert_eq!(all(true), Err((Code::OVERLOADED, Outcome::Unknown)));
    assert_eq!(names(&tree, "/a"), Vec::<String>::new(), "one is gone");
    assert_eq!(all(true), Err((Code::OVERLOADED, Outcome::NotApplied)));
    assert_eq!(all(false), Ok(1));
}

#[test]
fn the_root_is_there_and_a_parent_must_be() {
    let (_, _, tree) = tree();
    let root = tree.get("/").wait().unwrap().expect("the root");
    assert_eq!((root.version, &root.data[..]), (Index::ZERO, &b""[..]));
    assert!(!is_done(tree.create("/", b"x").wait().unwrap()));
    assert_eq!(tree.create("/a/b", b"x").wait().unwrap_err().code, Code::NO_PARENT);
    assert!(is_done(tree.create("/a", b"1").wait().unwrap()));
    assert!(is_done(tree.create("/a/b", b"2").wait().unwrap()));
    let Swap::Conflict(Some(found)) = tree.create("/a/b", b"3").wait().unwrap() else {
        panic!("it exists");
    };
    assert_eq!(found.value, b"2");
    assert!(is_done(tree.clone().with_parents().create("/x/y/z", b"").wait().unwrap()));
    assert_eq!(names(&tree, "/"), ["a", "x"]);
    assert_eq!(tree.delete("/a").wait().unwrap_err().code, Code::HAS_CHILDREN);
    assert_eq!(tree.delete("/").wait().unwrap_err().code, Code::BAD_PATH);
    assert!(tree.delete("/a/b").wait().unwrap() && tree.delete("/a").wait().unwrap());
    assert!(!tree.delete("/a").wait().unwrap());
    assert_eq!(
        tree.set("/", b"top").wait().unwrap(),
        tree.get("/").wait().unwrap().map(|n| n.version)
    );
}

#[test]
fn versions_guard_a_node_and_creation_is_remembered() {
    let (_, _, tree) = tree();
    let Swap::Done(created) = tree.create("/a", b"1").wait().unwrap() else { panic!("new") };
    assert_eq!(tree.set("/none", b"").wait().unwrap(), None);
    let second = tree.set("/a", b"2").wait().unwrap().expect("it is there");
    let stale = tree.set_version("/a", created, b"3").wait().unwrap();
    let Swap::Conflict(Some(found)) = stale else { panic!("{stale:?}") };
    assert_eq!((&found.value[..], found.version), (&b"2"[..], second));
    assert!(!is_done(tree.delete_version("/a", created).wait().unwrap()));
    let node = tree.get("/a").wait().unwrap().unwrap();
    assert_eq!((node.created, node.version, node.owner), (created, second, None));
    assert!(is_done(tree.delete_version("/a", second).wait().unwrap()));
}

#[test]
fn an_ephemeral_node_ends_with_its_session_and_has_no_children() {
    let (one, two, tree) = tree();
    tree.create("/members", b"").wait().unwrap();
    let theirs = Tree::new(two.clone(), tree.id()).ephemeral();
    theirs.create("/members/two", b"").wait().unwrap();
    let node = tree.get("/members/two").wait().unwrap().unwrap();
    assert_eq!(node.owner, Some(SessionId(two.session)));
    for tree in [&tree, &tree.clone().with_parents()] {
        let failure = tree.create("/members/two/x", b"").wait().unwrap_err();
        assert_eq!(failure.code, Code::EPHEMERAL_PARENT);
    }
    let failure = tree.clone().with_parents().create("/members/two/x/y", b"").wait().unwrap_err();
    assert_eq!(failure.code, Code::EPHEMERAL_PARENT);
    // New data does not change to whom it belongs.
    tree.set("/members/two", b"data").wait().unwrap();
    let mut watch = tree.watch_below("/members", None).unwrap();
    {
        let mut far = one.far();
        far.world.end(kind::EXPIRE, two.session);
        far.deliver();
    }
    assert_eq!(names(&tree, "/members"), Vec::<String>::new());
    let Some(Ok(TreeEvent::Removed { path, why, .. })) = watch.try_next() else { panic!("told") };
    assert_eq!((&path[..], why), ("/members/two", Removal::SessionEnded));
    assert!(tree.delete("/members").wait().unwrap());
}

#[test]
fn sequential_names_rise_and_are_never_used_again() {
    let (_, _, tree) = tree();
    tree.create("/q", b"").wait().unwrap();
    let next = |name: &str| tree.create_sequential(name, b"").wait().unwrap();
    assert_eq!(next("/q/job-"), "/q/job-0000000000");
    assert_eq!(next("/q/"), "/q/0000000001");
    tree.delete("/q/job-0000000000").wait().unwrap();
    tree.create("/q/job-0000000002", b"").wait().unwrap();
    assert_eq!(next("/q/job-"), "/q/job-0000000003", "one that is taken is passed over");
    assert_eq!(next("/"), "/0000000000", "each parent counts for itself");
    let deep = tree.clone().with_parents().create_sequential("/new/deep/n", b"").wait().unwrap();
    assert_eq!(deep, "/new/deep/n0000000000");
    assert_eq!(names(&tree, "/q"), ["0000000001", "job-0000000002", "job-0000000003"]);
}

#[test]
fn children_are_listed_in_pages_whatever_is_below_them() {
    let (_, _, tree) = tree();
    let tree = tree.with_parents();
    for path in ["/p/b/x/y", "/p/b-/x", "/p/b0", "/p/a", "/pp", "/p/b/z"] {
        tree.create(path, b"").wait().unwrap();
    }
    assert_eq!(names(&tree, "/p"), ["a", "b", "b-", "b0"]);
    let page = tree.children("/p", Some("a"), 2).wait().unwrap().unwrap();
    assert_eq!(page, Children { names: vec!["b".into(), "b-".into()], more: true });
    let page = tree.children("/p", Some("b-"), 2).wait().unwrap().unwrap();
    assert_eq!(page, Children { names: vec!["b0".into()], more: false });
    assert_eq!(tree.children("/none", None, 0).wait().unwrap(), None);
    assert_eq!(tree.delete_all("/p").wait().unwrap(), 9);
    assert_eq!(names(&tree, "/"), ["pp"]);
    assert_eq!(tree.delete_all("/").wait().unwrap(), 1);
}

#[test]
fn watches_see_a_path_or_all_below_it_and_no_neighbours() {
    let (_, _, tree) = tree();
    let mut exact = tree.watch("/a", None).unwrap();
    let mut below = tree.watch_below("/a", None).unwrap();
    for path in ["/a", "/ab", "/a/b", "/a-"] {
        tree.create(path, b"1").wait().unwrap();
    }
    tree.set("/a", b"2").wait().unwrap();
    tree.delete("/a/b").wait().unwrap();
    let told = |watch: &mut margay::resource::Watch<TreeEvent>| {
        let mut told = Vec::new();
        while let Some(event) = watch.try_next() {
            told.push(match event.unwrap() {
                TreeEvent::Created { path, .. } => format!("+{path}"),
                TreeEvent::Changed { path, old, .. } if old == b"1" => format!("={path}"),
                TreeEvent::Removed { path, .. } => format!("-{path}"),
                other => panic!("{other:?}"),
            });
        }
        told
    };
    assert_eq!(told(&mut exact), ["+/a", "=/a"]);
    assert_eq!(told(&mut below), ["+/a", "+/a/b", "=/a", "-/a/b"]);
    assert_eq!(tree.watch("a", None).unwrap_err().code, Code::BAD_PATH);
}

#[test]
fn what_is_no_path_is_refused() {
    let (_, _, tree) = tree();
    let long = format!("/{}", "x".repeat(4_096));
    let bad = ["", "a", "//", "/a/", "/a//b", "/.", "/a/..", "/\n", "/a\0b", "/\u{1b}[2J"];
    for path in bad {
        for result in [
            tree.create(path, b"").wait().map(drop),
            tree.set(path, b"").wait().map(drop),
            tree.delete(path).wait().map(drop),
            tree.get(path).wait().map(drop),
            tree.children(path, None, 0).wait().map(drop),
            tree.delete_all(path).wait().map(drop),
        ] {
            assert_eq!(result.unwrap_err().code, Code::BAD_PATH, "{path:?}");
        }
    }
    assert_eq!(tree.create(&long, b"").wait().unwrap_err().code, Code::KEY_TOO_LARGE);
    let long = format!("/{}", "x".repeat(4_090));
    assert_eq!(tree.create_sequential(&long, b"").wait().unwrap_err().code, Code::KEY_TOO_LARGE);
    assert!(path::key(b"/\xff").is_err());
    for path in ["/", "/a", "/a/\u{e9}\u{2026}/c"] {
        assert_eq!(path::of_key(&path::key(path.as_bytes()).unwrap()), path.as_bytes());
    }
}

// ---- against a model ------------------------------------------------------------------------

#[derive(Clone, Debug)]
enum Step {
    Create { path: String, ephemeral: bool, parents: bool },
    Set(String),
    Delete(String),
    DeleteAll(String),
    End,
}

fn any_path() -> impl Strategy<Value = String> {
    prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ab")], 1..4)
        .prop_map(|names| names.iter().map(|name| format!("/{name}")).collect())
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any_path(), any::<bool>(), any::<bool>())
            .prop_map(|(path, ephemeral, parents)| Step::Create { path, ephemeral, parents }),
        2 => any_path().prop_map(Step::Set),
        3 => any_path().prop_map(Step::Delete),
        1 => any_path().prop_map(Step::DeleteAll),
        1 => Just(Step::End),
    ]
}

/// Paths, and whether they end with the second session.
type Model = BTreeMap<String, bool>;

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn below(model: &Model, path: &str) -> Vec<String> {
    let prefix = format!("{path}/");
    model.keys().filter(|other| other.starts_with(&prefix)).cloned().collect()
}

/// All nodes above, the root not counted.
fn above(path: &str) -> Vec<String> {
    let ends = path.char_indices().skip(1).filter(|(_, c)| *c == '/');
    ends.map(|(end, _)| path[..end].to_owned()).collect()
}

fn create(model: &mut Model, path: &str, ephemeral: bool, parents: bool) -> Result<bool, Code> {
    let nearest = above(path).into_iter().rfind(|path| model.contains_key(path));
    let direct = parent(path);
    let has_parent = direct.is_empty() || model.contains_key(direct);
    if !has_parent && !parents {
        return Err(Code::NO_PARENT);
    }
    if nearest.is_some_and(|nearest| model[&nearest]) {
        return Err(Code::EPHEMERAL_PARENT);
    }
    for path in above(path) {
        model.entry(path).or_insert(false);
    }
    let is_new = !model.contains_key(path);
    if is_new {
        model.insert(path.to_owned(), ephemeral);
    }
    Ok(is_new)
}

proptest! {
    #[test]
    fn a_tree_has_no_orphans(steps in prop::collection::vec(step(), 1..60)) {
        let (one, mut two) = Near::pair();
        let tree = Tree::open(one.clone(), "t").wait().unwrap();
        let mut watch = tree.watch_below("/", None).unwrap();
        let (mut model, mut mirror) = (Model::new(), Model::new());
        for step in steps {
            match step {
                Step::Create { path, ephemeral, parents } => {
                    let theirs = Tree::new(two.clone(), tree.id());
                    let theirs = if ephemeral { theirs.ephemeral() } else { theirs };
                    let theirs = if parents { theirs.with_parents() } else { theirs };
                    let done = theirs.create(&path, b"1").wait();
                    let expected = create(&mut model, &path, ephemeral, parents);
                    prop_assert_eq!(done.map(is_done).map_err(|f| f.code), expected);
                }
                Step::Set(path) => {
                    let done = tree.set(&path, b"2").wait().unwrap().is_some();
                    prop_assert_eq!(done, model.contains_key(&path));
                }
                Step::Delete(path) => {
                    let done = tree.delete(&path).wait().map_err(|failure| failure.code);
                    let expected = match below(&model, &path).is_empty() {
                        true => Ok(model.remove(&path).is_some()),
                        false => Err(Code::HAS_CHILDREN),
                    };
                    prop_assert_eq!(done, expected);
                }
                Step::DeleteAll(path) => {
                    let all = below(&model, &path);
                    let own = u64::from(model.remove(&path).is_some());
                    model.retain(|path, _| !all.contains(path));
                    prop_assert_eq!(tree.delete_all(&path).wait(), Ok(all.len() as u64 + own));
                }
                Step::End => {
                    let mut far = one.far();
                    far.world.end(kind::EXPIRE, two.session);
                    two.session = far.world.register(9);
                    far.deliver();
                    model.retain(|_, ephemeral| !*ephemeral);
                }
            }
            while let Some(event) = watch.try_next() {
                match event.unwrap() {
                    TreeEvent::Created { path, .. } => {
                        let top = parent(&path).is_empty();
                        prop_assert!(top || mirror.contains_key(parent(&path)), "after its parent");
                        prop_assert!(mirror.insert(path, false).is_none());
                    }
                    TreeEvent::Changed { path, .. } => prop_assert!(mirror.contains_key(&path)),
                    TreeEvent::Removed { path, .. } => {
                        prop_assert!(below(&mirror, &path).is_empty(), "children first");
                        prop_assert!(mirror.remove(&path).is_some());
                    }
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert!(mirror.keys().eq(model.keys()));
        }
        for path in model.keys() {
            let children = below(&model, path).iter().filter(|below| parent(below) == path).count();
            prop_assert_eq!(names(&tree, path).len(), children);
        }
    }
}

#[test]
fn a_deleted_resource_is_gone_for_its_handles() {
    let (one, _, tree) = tree();
    let mut watch = tree.watch_below("/", None).unwrap();
    tree.create("/a", b"").wait().unwrap();
    margay::resource::Directory::new(one).delete(tree.id()).wait().unwrap();
    assert_eq!(tree.get("/a").wait().unwrap_err().code, Code::NO_SUCH_RESOURCE);
    assert!(matches!(watch.try_next(), Some(Ok(TreeEvent::Created { .. }))));
    assert_eq!(watch.try_next(), Some(Ok(TreeEvent::Deleted)));
}
