//! The hypervisor: its control socket, its file, and what is printed about it.

use std::path::{Component, Path};

use smolvm_host::engine::qmp::{QmpStream, command};
use smolvm_host::fuzzing::engine;

use crate::input;

/// Messages do not depend on where a read ended; broken bytes are found in any case.
pub(crate) fn qmp(bytes: &[u8]) {
    let (whole, pieces) = input::pieces(bytes);
    let at_once = QmpStream::default().feed(whole);
    let mut stream = QmpStream::default();
    let in_pieces: Result<Vec<_>, _> = pieces.iter().map(|piece| stream.feed(piece)).collect();
    assert_eq!(in_pieces.map(|messages| messages.concat()), at_once);
    // A name is a text like any other: whatever it is, the command stays one line.
    let line = command(input::text(whole), None, 7);
    assert_eq!(line.iter().filter(|b| **b == b'\n').count(), 1);
}

/// Versions, libraries and directories in what programs print; measurements in the cache.
pub(crate) fn probe(bytes: &[u8]) {
    let (which, rest) = input::choice(bytes);
    if which % 2 == 1 {
        let path = input::file("cache", rest);
        if let Some(engine) = engine::cached_engine(&path) {
            let again = serde_json::to_vec(&engine).ok().and_then(|json| engine::cached_engine(&input::file("again", &json)));
            assert_eq!(again, Some(engine));
        }
        if let Some(speed) = engine::cached_speed(&path) {
            let again = serde_json::to_vec(&speed).ok().and_then(|json| engine::cached_speed(&input::file("again", &json)));
            assert_eq!(again, Some(speed));
        }
        return;
    }
    let text = String::from_utf8_lossy(rest);
    if let Some(version) = engine::version(&text) {
        assert_eq!(engine::version(&format!("QEMU emulator version {version}")), Some(version));
    }
    for line in text.lines() {
        assert!(engine::listed_file(line).is_none_or(|file| file.starts_with('/')));
        let tidy = engine::tidy(Path::new(line));
        assert!(!tidy.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir)));
        assert!(tidy.is_absolute() || !line.starts_with('/'));
    }
}

/// A loader has an absolute path of a path's length, or there is none.
pub(crate) fn program(bytes: &[u8]) {
    if let Ok(Some(loader)) = engine::interpreter(&input::file("program", bytes)) {
        assert!(loader.is_absolute() && loader.as_os_str().len() < 256);
    }
}
