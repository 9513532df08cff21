//! What the tree of an image takes of memory has a limit, whatever takes it; what is replaced is given back.

#![allow(clippy::unwrap_used, reason = "a failed preparation is a failed test")]

mod support;

use smolvm_oci::rootfs::{Limits, Plan, RootfsError};
use support::{Archive, Stack, sparse, told};

/// Small enough for a few hundred members to pass it, large enough for all of them without what each test is about.
const HELD: usize = 256 << 10;

fn plan(layers: Vec<Archive>) -> Result<Plan, RootfsError> {
    let stack = Stack::new(layers.into_iter().map(Archive::end).collect());
    Plan::of(&stack, Limits { held: HELD, ..Limits::default() }, &mut |_| {})
}

/// So many members, each made by one more call.
fn members(count: usize, add: impl Fn(Archive, usize) -> Archive) -> Archive {
    (0..count).fold(Archive::new(), add)
}

/// Taken with little in each member, refused with much, by the name of the member at which it is too much.
fn refused(little: Archive, much: Archive, entry: &str) {
    plan(vec![little]).unwrap();
    let text = told(&plan(vec![much]).map(|plan| plan.image_bytes()).unwrap_err());
    assert!(text.contains("more memory than they may") && text.contains(entry), "{text}");
}

#[test]
fn names_have_a_limit() {
    let named = |archive: Archive, name: String| archive.pax(&[("path", name.as_bytes())]).file("x", "");
    refused(
        members(700, |archive, n| named(archive, format!("n{n}"))),
        members(700, |archive, n| named(archive, format!("{n:0>250}"))),
        "\"00000",
    );
    let links = |length: usize| {
        let mut archive = Archive::new().file("f", "");
        for n in 0..900 {
            archive = archive.pax(&[("path", format!("l{n:0>length$}").as_bytes())]).link("x", "f");
        }
        archive
    };
    refused(links(3), links(249), "\"l000");
}

#[test]
fn targets_have_a_limit() {
    let symlinks =
        |length: usize| members(70, |archive, n| archive.pax(&[("linkpath", &vec![b'x'; length])]).symlink(&format!("s{n}"), "x"));
    refused(symlinks(10), symlinks(4000), "\"s6");
}

#[test]
fn attributes_have_a_limit() {
    let tagged =
        |length: usize| members(70, |archive, n| archive.pax(&[("SCHILY.xattr.user.x", &vec![b'x'; length])]).file(&format!("t{n}"), ""));
    refused(tagged(10), tagged(4000), "\"t");
    // Of directories too, which may be said again.
    let again =
        |length: usize| members(70, |archive, n| archive.pax(&[("SCHILY.xattr.user.x", &vec![b'x'; length])]).dir(&format!("d/{}", n / 2)));
    plan(vec![again(4000)]).unwrap();
    plan(vec![again(4000), again(4000), again(3000)]).unwrap();
}

#[test]
fn maps_of_sparse_files_have_a_limit() {
    // Holes of 1 MiB: each stretch is one of its own.
    let mapped = |count: u64| {
        let parts: Vec<(u64, &[u8])> = (0..count).map(|n| (n << 20, &b"x"[..])).collect();
        sparse("mapped", count << 20, &parts)
    };
    refused(mapped(1000), mapped(20_000), "\"mapped\"");
}

#[test]
fn what_is_replaced_is_given_back() {
    let layer = |n: usize| {
        let long = vec![b'a' + u8::try_from(n % 26).unwrap(); 3900];
        members(20, |archive, n| {
            let archive = archive.pax(&[("linkpath", &long)]).symlink(&format!("s{n}"), "x");
            let archive = archive.pax(&[("SCHILY.xattr.user.x", &long)]).file(&format!("d/{n}"), "");
            if n == 0 { archive.file(".wh.d", "") } else { archive }
        })
    };
    // Of one layer more than half is taken, so two would be too much.
    plan((0..12).map(layer).collect()).unwrap();
}
