//! The configuration file: read as the lines that somebody wrote, changed without touching what stands around a value.
//!
//! ```text
//!   [sandbox]            ──► Written { key: "sandbox.memory", value: "1G", line: 2 }
//!   memory = "1G"
//! ```
//!
//! What a key means is not known here. Whoever may write the file decides how sandboxes are made, for root too: so one
//! that others can write is not read at all.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use smolvm_model::effect::Effect;
use toml_edit::{Document, DocumentMut, Item, Table, Value, value};

use crate::effect::{Fault, perform};
use crate::fsx::{FsError, create_private_dir, sync_dir};
use crate::lock;

/// A page of settings is a few hundred bytes.
const MOST: u64 = 64 << 10;
/// Changing the file takes milliseconds.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// One value as it stands in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Table and name, joined by a dot.
    pub key: String,
    /// The value: text as it is, a number by its digits.
    pub value: String,
    /// On which line, from 1.
    pub line: usize,
}

/// Why a configuration file is not read or written.
#[derive(Debug, thiserror::Error)]
pub enum ConfigFileError {
    /// It cannot be read or written.
    #[error(transparent)]
    Fs(#[from] FsError),
    /// A test let it fail.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// Others could write to it.
    #[error("{} belongs to uid {uid} with mode {mode:o}: others can write to it", path.display())]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its owner.
        uid: u32,
        /// Its permissions.
        mode: u32,
    },
    /// It is larger than any settings.
    #[error("{} is larger than {} KiB", path.display(), MOST >> 10)]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not TOML.
    #[error("line {line} of {}: {problem}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// What the parser says.
        problem: String,
    },
    /// Something stands where text or a number was expected.
    #[error("line {line} of {}: {key} is {found}, not text or a whole number", path.display())]
    Shape {
        /// The file.
        path: PathBuf,
        /// Where, from 1.
        line: usize,
        /// Of which key.
        key: String,
        /// What is there.
        found: &'static str,
    },
    /// Another command changes it.
    #[error("another command is changing {}", path.display())]
    Busy {
        /// The file.
        path: PathBuf,
    },
}

/// A value that is to stand in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New<'a> {
    /// Text, also if it looks like a number.
    Text(&'a str),
    /// The digits of a number; what a program would write otherwise stands there as text.
    Number(&'a str),
}

/// Everything in the file, in its order; nothing if there is none.
pub fn read(path: &Path) -> Result<Vec<Written>, ConfigFileError> {
    text(path)?.map_or_else(|| Ok(Vec::new()), |text| parse(&text, path))
}

/// Writes one value, or takes it away; what else stands in the file stays as it is. False: it was not there.
pub fn write(path: &Path, place: (&str, &str), new: Option<New<'_>>) -> Result<bool, ConfigFileError> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    perform(Effect::ConfigFile, |_| {
        create_private_dir(directory)?;
        let held = File::open(directory).map_err(FsError::on("open", directory))?;
        if !lock::wait_for(&held, Instant::now() + LOCK_WAIT).map_err(FsError::on("lock", directory))? {
            return Err(ConfigFileError::Busy { path: path.to_owned() });
        }
        let before = text(path)?.unwrap_or_default();
        // Whoever changes a file that cannot be read would lose it.
        parse(&before, path)?;
        let (after, was_there) = edited(&before, path, place, new)?;
        if after != before {
            replace(path, after.as_bytes())?;
        }
        Ok(was_there)
    })
}

fn text(path: &Path) -> Result<Option<String>, ConfigFileError> {
    // A pipe that nobody writes into would be waited for.
    let file = match File::options().read(true).custom_flags(libc::O_NONBLOCK).open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(FsError::on("open", path)(e).into()),
    };
    let about = file.metadata().map_err(FsError::on("look at", path))?;
    if !about.is_file() {
        let odd = std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is no regular file");
        return Err(FsError::on("read", path)(odd).into());
    }
    let own = about.uid() == 0 || about.uid() == rustix::process::geteuid().as_raw();
    if !own || about.mode() & 0o022 != 0 {
        return Err(ConfigFileError::Exposed { path: path.to_owned(), uid: about.uid(), mode: about.mode() & 0o777 });
    }
    let mut text = String::new();
    file.take(MOST + 1).read_to_string(&mut text).map_err(FsError::on("read", path))?;
    if text.len() as u64 > MOST { Err(ConfigFileError::TooLarge { path: path.to_owned() }) } else { Ok(Some(text)) }
}

/// The values in a text; `path` is only told.
fn parse(text: &str, path: &Path) -> Result<Vec<Written>, ConfigFileError> {
    let document = Document::parse(text).map_err(|e| syntax(&e, text, path))?;
    let mut all = Vec::new();
    for (name, item) in document.iter() {
        gather(name, item, text, path, &mut all)?;
    }
    all.sort_by_key(|written| written.line);
    Ok(all)
}

fn gather(key: &str, item: &Item, text: &str, path: &Path, all: &mut Vec<Written>) -> Result<(), ConfigFileError> {
    let line = line_of(text, item.span().map_or(0, |span| span.start));
    if let Some(table) = item.as_table_like() {
        return table.iter().try_for_each(|(name, item)| gather(&format!("{key}.{name}"), item, text, path, all));
    }
    let shape = |found| ConfigFileError::Shape { path: path.to_owned(), line, key: key.to_owned(), found };
    let value = match item.as_value() {
        Some(Value::String(text)) => text.value().clone(),
        Some(Value::Integer(number)) => number.value().to_string(),
        Some(other) => return Err(shape(other.type_name())),
        None => return Err(shape(item.type_name())),
    };
    all.push(Written { key: key.to_owned(), value, line });
    Ok(())
}

fn syntax(e: &toml_edit::TomlError, text: &str, path: &Path) -> ConfigFileError {
    let line = line_of(text, e.span().map_or(0, |span| span.start));
    ConfigFileError::Syntax { path: path.to_owned(), line, problem: e.message().replace('\n', ", ") }
}

fn line_of(text: &str, at: usize) -> usize {
    1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count()
}

/// The text with one value more, another or less, and whether there was one.
fn edited(before: &str, path: &Path, (table, name): (&str, &str), new: Option<New<'_>>) -> Result<(String, bool), ConfigFileError> {
    let mut document: DocumentMut = before.parse().map_err(|e| syntax(&e, before, path))?;
    let was_there = document.get(table).and_then(Item::as_table_like).is_some_and(|table| table.contains_key(name));
    match new {
        None if was_there => drop(document.get_mut(table).and_then(Item::as_table_like_mut).and_then(|table| table.remove(name))),
        None => {}
        Some(new) => {
            let place = document.entry(table).or_insert(Item::Table(Table::new()));
            // What was read a moment ago had text and numbers in tables only.
            let Some(values) = place.as_table_like_mut() else {
                let found = place.type_name();
                return Err(ConfigFileError::Shape { path: path.to_owned(), line: 1, key: table.to_owned(), found });
            };
            let mut item = match new {
                New::Text(text) => value(text),
                New::Number(text) => match text.parse::<i64>() {
                    Ok(number) if number.to_string() == text => value(number),
                    Ok(_) | Err(_) => value(text),
                },
            };
            if let (Some(old), Some(new)) = (values.get(name).and_then(Item::as_value), item.as_value_mut()) {
                // A remark behind the value is about the setting, not about its value.
                *new.decor_mut() = old.decor().clone();
            }
            values.insert(name, item);
        }
    }
    Ok((document.to_string(), was_there))
}

/// Puts the new text in the place of the old. What a killed command leaves beside it has one name, and is written over by the next.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), FsError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let new = path.with_file_name(name);
    let mode = std::fs::metadata(path).map_or(0o644, |about| about.mode() & 0o755);
    let write = || -> std::io::Result<()> {
        let mut file = File::options().write(true).create(true).truncate(true).mode(mode).custom_flags(libc::O_NOFOLLOW).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        std::fs::rename(&new, path)
    };
    write().map_err(|e| {
        let _ = std::fs::remove_file(&new);
        FsError::on("write", path)(e)
    })?;
    path.parent().map_or(Ok(()), sync_dir)
}

/// What fuzzing needs of this module.
#[cfg(feature = "fuzzing")]
pub fn parse_and_edit(text: &str, place: (&str, &str), new: &str) -> Option<(Vec<Written>, Vec<Written>)> {
    let path = Path::new("config.toml");
    let before = parse(text, path).ok()?;
    let (after, _) = edited(text, path, place, Some(New::Text(new))).ok()?;
    Some((before, parse(&after, path).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const FILE: &str = "# mine\n[sandbox]\nmemory = \"1G\"  # enough\ncpus = 2\n\n[pool]\nminimal = 3\n";

    fn pairs(all: &[Written]) -> Vec<(&str, &str, usize)> {
        all.iter().map(|w| (w.key.as_str(), w.value.as_str(), w.line)).collect()
    }

    fn at(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    #[test]
    fn values_are_read_with_their_lines() {
        let (_dir, path) = at(FILE);
        let all = read(&path).unwrap();
        assert_eq!(pairs(&all), [("sandbox.memory", "1G", 3), ("sandbox.cpus", "2", 4), ("pool.minimal", "3", 7)]);
        assert_eq!(read(&path.with_file_name("none")).unwrap(), []);
    }

    #[test]
    fn a_change_keeps_what_stands_around_it() {
        let (dir, path) = at(FILE);
        assert!(write(&path, ("sandbox", "memory"), Some(New::Text("2G"))).unwrap());
        assert!(!write(&path, ("sandbox", "net"), Some(New::Text("none"))).unwrap());
        assert!(!write(&path, ("pool", "debian"), Some(New::Number("1"))).unwrap());
        assert!(write(&path, ("sandbox", "cpus"), None).unwrap());
        assert!(!write(&path, ("sandbox", "ttl"), None).unwrap());
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "# mine\n[sandbox]\nmemory = \"2G\"  # enough\nnet = \"none\"\n\n[pool]\nminimal = 3\ndebian = 1\n");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_is_no_file_is_told_and_not_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        rustix::fs::mkfifoat(rustix::fs::CWD, &path, 0o600.into()).unwrap();
        // Nobody writes into it: who opens it to read would wait.
        assert!(matches!(read(&path), Err(ConfigFileError::Fs(_))));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(read(&path), Err(ConfigFileError::Fs(_))));
    }

    #[test]
    fn text_stays_text_whatever_it_looks_like() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        for text in ["0123", "123", "+5", "-0"] {
            write(&path, ("sandbox", "image"), Some(New::Text(text))).unwrap();
            assert_eq!(pairs(&read(&path).unwrap()), [("sandbox.image", text, 2)]);
        }
        write(&path, ("pool", "minimal"), Some(New::Number("3"))).unwrap();
        // A number that no program would write is kept as it was given, too.
        write(&path, ("pool", "debian"), Some(New::Number("03"))).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text, "[sandbox]\nimage = \"-0\"\n\n[pool]\nminimal = 3\ndebian = \"03\"\n");
    }

    #[test]
    fn the_first_setting_makes_the_file_and_its_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("etc/config.toml");
        write(&path, ("sandbox", "cpus"), Some(New::Number("2"))).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "[sandbox]\ncpus = 2\n");
    }

    #[test]
    fn what_is_no_setting_is_told_with_its_line_and_changes_nothing() {
        for (text, line) in
            [("[sandbox\n", 1), ("a = 1\n[b]\nc = [1]\n", 3), ("\n[a]\nb = true\n", 3), ("x = 1.5\n", 1), ("[[a]]\nb = 1\n", 1)]
        {
            let (_dir, path) = at(text);
            for error in [read(&path).unwrap_err(), write(&path, ("a", "b"), Some(New::Text("c"))).unwrap_err()] {
                let (ConfigFileError::Syntax { line: found, .. } | ConfigFileError::Shape { line: found, .. }) = error else {
                    panic!("{error}")
                };
                assert_eq!(found, line, "{text:?}");
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }

    #[test]
    fn a_file_that_others_can_write_or_that_is_no_page_is_not_read() {
        let (_dir, path) = at(FILE);
        for mode in [0o666, 0o620] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            assert!(matches!(read(&path), Err(ConfigFileError::Exposed { .. })));
        }
        let (_dir, path) = at(&"#".repeat(70_000));
        assert!(matches!(read(&path), Err(ConfigFileError::TooLarge { .. })));
    }
}
