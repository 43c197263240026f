//! `margay tls`: what its commands write, refuse and say.

mod cluster;

use std::convert::Infallible;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::{TryRecvError, channel};
use std::thread;

use margay::tls::Tls;
use serde_json::Value;

use crate::harness::{Ended, MARGAY, Scratch, run, until};

/// `margay tls` in a directory.
#[track_caller]
fn tls(dir: &Path, args: &str) -> Ended {
    let mut command = Command::new(MARGAY);
    command.arg("tls").args(args.split(' ')).current_dir(dir).env_remove("MARGAY_TLS");
    run(command)
}

/// What `show` says of each certificate, in JSON.
#[track_caller]
fn shown(dir: &Path, what: &str, code: i32) -> Vec<Value> {
    let shown = tls(dir, &format!("show {what} -o json")).with(code).json();
    shown.as_array().expect("a list").clone()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("it is there").permissions().mode() & 0o777
}

fn bytes(dir: &Path, name: &str) -> Vec<u8> {
    fs::read(dir.join(name)).expect("it is there")
}

#[test]
fn an_identity_is_a_folder_that_only_its_owner_can_read() {
    let scratch = Scratch::new("tls-issue");
    let dir = scratch.path();
    let said = tls(dir, "init ca").with(0).out;
    assert!(said.contains("margay tls issue n1 node --ca ca"), "{said}");
    assert_eq!(mode(&dir.join("ca/ca.pem")) & 0o444, 0o444);
    assert_eq!((mode(&dir.join("ca")), mode(&dir.join("ca/ca.key"))), (0o700, 0o600));
    for (role, use_it) in [
        ("node", "margay serve --tls id/node"),
        ("operator", "margay cluster status --tls id/operator"),
        ("client", "export MARGAY_TLS=id/client"),
    ] {
        let said = tls(dir, &format!("issue id/{role} {role} --ca ca")).with(0).out;
        assert!(said.contains(use_it), "{said}");
        let folder = dir.join("id").join(role);
        assert_eq!((mode(&folder), mode(&folder.join("key.pem"))), (0o700, 0o600));
        let mut files: Vec<String> = fs::read_dir(&folder)
            .expect("a folder")
            .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
            .collect();
        files.sort();
        assert_eq!(files, ["ca.pem", "cert.pem", "key.pem"]);
        assert_eq!(bytes(&folder, "ca.pem"), bytes(&dir.join("ca"), "ca.pem"));
        let shown = shown(dir, &format!("id/{role}"), 0);
        assert_eq!(shown[0]["days_left"], 364, "a part of a day is over");
        let own = (&shown[0]["name"], &shown[0]["role"], &shown[0]["trusted"], &shown[0]["good"]);
        assert_eq!(own, (&role.into(), &role.into(), &true.into(), &true.into()));
        assert_eq!(
            (&shown[1]["role"], &shown[1]["name"]),
            (&"authority".into(), &shown[0]["issuer"])
        );
    }
    let table = tls(dir, "show id/node").with(0).out;
    assert!(table.starts_with("FILE") && table.contains("good"), "{table}");
    assert_eq!(tls(dir, "show ca").with(0).out.lines().count(), 2);
    let json = tls(dir, "issue n2 node --ca ca --name Ada -o json").with(0).json();
    assert_eq!(
        (&json["name"], &json["folder"], &json["new_key"]),
        (&"Ada".into(), &"n2".into(), &true.into())
    );
    assert_eq!(json["serial"], shown(dir, "n2", 0)[0]["serial"]);
}

#[test]
fn what_is_there_is_replaced_only_by_who_says_so() {
    let scratch = Scratch::new("tls-refused");
    let dir = scratch.path();
    let refused = |args: &str, words: &[&str]| {
        let ended = tls(dir, args).with(2);
        assert!(words.iter().all(|word| ended.err.contains(word)), "{words:?}: {ended:?}");
    };
    refused("issue n1 node --ca ca", &["no ca/ca.pem", "margay tls init"]);
    tls(dir, "init ca").with(0);
    let key = bytes(dir, "ca/ca.key");
    refused("init ca", &["ca/ca.key is there already", "another folder"]);
    assert_eq!(bytes(dir, "ca/ca.key"), key);
    refused("issue ca node --ca ca", &["authority's folder"]);
    refused("issue n1 node --ca ca --renew", &["no n1/cert.pem to renew", "without --renew"]);
    refused("issue n1 king --ca ca", &["king", "node, operator, client"]);
    refused("issue n1 node --ca ca --valid 1y", &["1y", "unknown unit"]);
    refused("issue n1 node --ca ca --new-key", &["--renew"]);
    refused("issue .. node --ca ca", &["--name"]);
    assert!(!dir.join("n1").exists());
    tls(dir, "issue n1 node --ca ca").with(0);
    refused("issue n1 node --ca ca", &["n1/cert.pem is there already", "--renew"]);
    refused("issue n1 operator --ca ca --renew", &["role node, not operator"]);
    refused("show nowhere", &["no nowhere"]);
    fs::write(dir.join("text.pem"), "hello").expect("ours");
    refused("show text.pem", &["text.pem: no certificate in PEM"]);
    tls(dir, "init other").with(0);
    fs::copy(dir.join("other/ca.key"), dir.join("ca/ca.key")).expect("ours");
    refused("issue n2 node --ca ca", &["ca/ca.pem", "ca.key"]);
}

#[test]
fn a_renewed_certificate_keeps_its_key_and_its_name() {
    let scratch = Scratch::new("tls-renew");
    let dir = scratch.path();
    tls(dir, "init ca").with(0);
    let name = ["issue", "n1", "node", "--ca", "ca", "--name", "first node", "--valid", "10d"];
    let mut command = Command::new(MARGAY);
    command.arg("tls").args(name).current_dir(dir);
    run(command).with(0);
    let (before, key) = (shown(dir, "n1", 0), bytes(dir, "n1/key.pem"));
    assert_eq!((&before[0]["name"], &before[0]["days_left"]), (&"first node".into(), &9.into()));
    assert!(tls(dir, "show n1 --left 30d").with(1).err.contains("expires soon: in 9 days"));

    tls(dir, "issue n1 node --ca ca --renew").with(0);
    let after = shown(dir, "n1 --left 30d", 0);
    assert_eq!((&after[0]["name"], &after[0]["days_left"]), (&"first node".into(), &364.into()));
    assert_ne!(after[0]["serial"], before[0]["serial"]);
    assert_eq!(bytes(dir, "n1/key.pem"), key);
    tls(dir, "issue n1 node --ca ca --renew --new-key").with(0);
    shown(dir, "n1", 0);
    assert_ne!(bytes(dir, "n1/key.pem"), key);
    assert_eq!(mode(&dir.join("n1/key.pem")), 0o600);
    assert_eq!(fs::read_dir(dir.join("ca/issued")).expect("a folder").count(), 3);

    // By another authority: both are trusted until somebody says otherwise.
    tls(dir, "init ca2").with(0);
    tls(dir, "issue n1 node --ca ca2 --renew").with(0);
    let both = shown(dir, "n1", 0);
    assert_eq!(both.len(), 3);
    assert_ne!(both[0]["issuer"], after[0]["issuer"]);
    tls(dir, "issue n1 node --ca ca2 --renew").with(0);
    assert_eq!(shown(dir, "n1", 0).len(), 3);
}

/// Who reads it meanwhile finds what fits together, at any time.
#[test]
fn a_folder_is_right_while_it_is_renewed() {
    let scratch = Scratch::new("tls-meanwhile");
    let dir = scratch.path();
    tls(dir, "init ca").with(0);
    tls(dir, "init ca2").with(0);
    tls(dir, "issue n1 node --ca ca").with(0);
    let (ends, end) = channel::<Infallible>();
    let folder = dir.join("n1");
    let reader = thread::spawn(move || {
        let mut count = 0;
        while end.try_recv() == Err(TryRecvError::Empty) {
            Tls::open(&folder).expect("it is right");
            count += 1;
        }
        count
    });
    for by in ["ca2", "ca"].repeat(10) {
        tls(dir, &format!("issue n1 node --ca {by} --renew")).with(0);
    }
    drop(ends);
    assert!(reader.join().expect("it was always right") > 20);
}

/// Where root renews what a node's own user must read.
#[test]
fn files_belong_to_whom_their_folder_belongs() {
    let scratch = Scratch::new("tls-owner");
    let dir = scratch.path();
    tls(dir, "init ca").with(0);
    fs::create_dir(dir.join("n1")).expect("a folder");
    let (user, group) = (12_345, 23_456);
    if chown(dir.join("n1"), Some(user), Some(group)).is_err() {
        println!("skipped: this takes root");
        return;
    }
    tls(dir, "issue n1 node --ca ca").with(0);
    for name in ["ca.pem", "cert.pem", "key.pem"] {
        let about = fs::metadata(dir.join("n1").join(name)).expect("it is there");
        assert_eq!((about.uid(), about.gid()), (user, group), "{name}");
    }
}

#[test]
fn what_is_not_good_any_more_is_told_by_the_exit_code() {
    let scratch = Scratch::new("tls-bad");
    let dir = scratch.path();
    tls(dir, "init ca --valid 20d").with(0);
    tls(dir, "init other").with(0);
    tls(dir, "issue n1 node --ca ca").with(0);
    assert_eq!(shown(dir, "n1", 0)[0]["days_left"], 19, "no longer than its authority");
    let fault = |what: &str, words: &str| {
        let ended = tls(dir, &format!("show {what}")).with(1);
        assert!(ended.err.contains(words) && ended.out.contains(words), "{words}: {ended:?}");
    };
    tls(dir, "issue short client --ca ca --valid 1s").with(0);
    until("a second to be over", || tls(dir, "show short").code == Some(1));
    fault("short", "expired");
    assert_eq!(shown(dir, "n1 short", 1).iter().filter(|row| row["good"] == false).count(), 1);

    tls(dir, "issue n2 node --ca other").with(0);
    fs::copy(dir.join("n2/key.pem"), dir.join("n1/key.pem")).expect("ours");
    fault("n1", "key.pem: it is not the key of cert.pem");
    fs::remove_file(dir.join("n1/key.pem")).expect("ours");
    fault("n1", "n1/key.pem: No such file");
    fs::copy(dir.join("ca/ca.pem"), dir.join("n2/ca.pem")).expect("ours");
    fault("n2", "not from an authority in ca.pem");
    fs::remove_file(dir.join("n2/ca.pem")).expect("ours");
    assert!(tls(dir, "show n2").with(2).err.contains("n2/ca.pem"));

    tls(dir, "init brief --valid 1s").with(0);
    until("a second to be over", || tls(dir, "show brief").code == Some(1));
    let ended = tls(dir, "issue n3 node --ca brief").with(2);
    assert!(ended.err.contains("expired"), "{ended:?}");
}

#[test]
fn what_is_taken_back_stays_so() {
    let scratch = Scratch::new("tls-revoke");
    let dir = scratch.path();
    tls(dir, "init ca").with(0);
    tls(dir, "init other").with(0);
    for n in ["n1", "n2", "n3"] {
        tls(dir, &format!("issue {n} node --ca ca")).with(0);
    }
    tls(dir, "issue foreign node --ca other").with(0);
    let ended = tls(dir, "revoke --ca ca n1 foreign").with(2);
    assert!(ended.err.contains("foreign/cert.pem: it is not from this authority"), "{ended:?}");
    assert!(!dir.join("ca/crl.pem").exists(), "all or nothing");

    let json = |args: &str| tls(dir, &format!("revoke --ca ca {args} -o json")).with(0).json();
    let first = json("n1/cert.pem");
    assert_eq!((&first["revoked"], &first["all"]), (&1.into(), &1.into()));
    // The folder is gone with its machine: the authority has kept a copy.
    fs::remove_dir_all(dir.join("n2")).expect("ours");
    let issued = fs::read_dir(dir.join("ca/issued")).expect("a folder");
    let names = issued.map(|entry| entry.expect("an entry").file_name());
    let copy = names.map(|name| name.to_string_lossy().into_owned()).find(|n| n.starts_with("n2-"));
    let second = json(&format!("ca/issued/{}", copy.expect("it is there")));
    assert_eq!((&second["revoked"], &second["all"]), (&1.into(), &2.into()));
    let again = tls(dir, "revoke --ca ca n1").with(0).out;
    assert!(again.contains("as before; 2 in all") && again.contains("every node"), "{again}");

    fs::copy(dir.join("ca/crl.pem"), dir.join("n1/crl.pem")).expect("ours");
    assert!(tls(dir, "show n1").with(1).err.contains("revoked"));
    // Whoever is given a certificate is given the list.
    tls(dir, "issue n3 node --ca ca --renew").with(0);
    assert_eq!(bytes(dir, "n3/crl.pem"), bytes(dir, "ca/crl.pem"));
    shown(dir, "n3", 0);
    fs::copy(dir.join("n3/crl.pem"), dir.join("foreign/crl.pem")).expect("ours");
    tls(dir, "revoke --ca other foreign").with(0);
    tls(dir, "issue foreign node --ca other --renew --new-key").with(0);
    let lists = String::from_utf8(bytes(dir, "foreign/crl.pem")).expect("text");
    assert_eq!(lists.matches("BEGIN X509 CRL").count(), 2, "those of others are kept");
    shown(dir, "foreign", 0);
}
