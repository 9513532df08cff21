//! Which of the host's apt sources are Debian's own.
//!
//! Images and kernels are made from Debian alone, whatever else the host installs from. An entry is
//! taken when it names Debian's keyring, or names none and looks like a Debian mirror; every entry
//! that is taken is then used with Debian's keyring and no other, so looks alone get nothing in.
//! Options that weaken checks (`trusted=yes`) do not come along.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The keyring every source is held to.
pub(super) const KEYRINGS: [&str; 2] = ["/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/debian-archive-keyring.pgp"];

/// One mirror and suite, reduced to the component `main`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Source {
    pub(super) uri: String,
    pub(super) suite: String,
}

/// An entry of the host that is not used, for the message when none is left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceProblem {
    /// The file it stands in.
    pub file: PathBuf,
    /// Its mirror, as written.
    pub uri: String,
    /// Why not.
    pub reason: SkipReason,
}

/// Why an entry is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SkipReason {
    /// It is signed by somebody else.
    OtherKeyring,
    /// It names no keyring, and its address is not like a Debian mirror's.
    NotAMirror,
    /// Its suite is not of the host's release.
    OtherSuite,
    /// It has no component `main`.
    NoMain,
    /// Its address has characters no address has, or a way of access that is not supported.
    BadAddress,
}

/// What was found in the host's files.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sources {
    pub(super) used: BTreeSet<Source>,
    pub(super) skipped: Vec<SourceProblem>,
}

/// An entry as either format writes it.
#[derive(Debug, Default)]
struct Entry {
    uris: Vec<String>,
    suites: Vec<String>,
    components: Vec<String>,
    signed_by: Option<String>,
}

impl Sources {
    /// Adds the entries of one file, whose name tells its format.
    pub(super) fn add(&mut self, file: &Path, text: &str, codename: &str) {
        let entries = match file.extension().and_then(|extension| extension.to_str()) {
            Some("list") => one_line_entries(text),
            Some("sources") => stanzas(text),
            _ => return,
        };
        for entry in entries {
            self.judge(file, &entry, codename);
        }
    }

    /// The same mirrors for another release. One that is still being made has neither updates nor security of its own.
    pub(super) fn of_release(self, host: &str, release: &str) -> Self {
        if release == host {
            return self;
        }
        let moving = matches!(release, "sid" | "unstable" | "experimental");
        let of = |Source { uri, suite }: Source| {
            let part = suite.strip_prefix(host).or_else(|| suite.strip_prefix("stable"))?;
            (part.is_empty() || !moving).then(|| Source { uri, suite: format!("{release}{part}") })
        };
        Self { used: self.used.into_iter().filter_map(of).collect(), ..self }
    }

    /// In apt's one-line format, each held to `keyring`.
    pub(super) fn render(&self, keyring: &str, architecture: &str) -> String {
        let mut text = String::new();
        for Source { uri, suite } in &self.used {
            // Writing to a String cannot fail.
            let _ = writeln!(text, "deb [arch={architecture} signed-by={keyring}] {uri} {suite} main");
        }
        text
    }

    /// In deb822 format for an image. A mirror that only this host can reach (a directory, a list of mirrors in a
    /// file) is left out: in the guest it would be an error of every `apt-get update`.
    pub(super) fn render_for_guests(&self, keyring: &str) -> String {
        let mut text = String::new();
        for Source { uri, suite } in self.used.iter().filter(|source| source.uri.starts_with("http")) {
            let _ = writeln!(text, "Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: main\nSigned-By: {keyring}\n");
        }
        text
    }

    fn judge(&mut self, file: &Path, entry: &Entry, codename: &str) {
        for uri in &entry.uris {
            let mut skip = |reason| self.skipped.push(SourceProblem { file: file.to_owned(), uri: uri.clone(), reason });
            let by_debian = entry.signed_by.as_deref().map(is_debian_keyring);
            if by_debian == Some(false) {
                skip(SkipReason::OtherKeyring);
            } else if !is_address(uri) {
                skip(SkipReason::BadAddress);
            } else if by_debian.is_none() && !looks_like_a_mirror(uri) {
                skip(SkipReason::NotAMirror);
            } else if !entry.components.iter().any(|component| component == "main") {
                skip(SkipReason::NoMain);
            } else {
                let suites: Vec<&String> = entry.suites.iter().filter(|suite| is_suite_of(suite, codename)).collect();
                if suites.is_empty() {
                    skip(SkipReason::OtherSuite);
                }
                self.used.extend(suites.into_iter().map(|suite| Source { uri: uri.clone(), suite: suite.clone() }));
            }
        }
    }
}

/// `deb [option=value …] uri suite component…`
fn one_line_entries(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default().trim();
        let Some(rest) = line.strip_prefix("deb").filter(|rest| rest.starts_with([' ', '\t', '['])) else { continue };
        let rest = rest.trim_start();
        let (options, rest) = match rest.strip_prefix('[') {
            None => ("", rest),
            Some(rest) => match rest.split_once(']') {
                None => continue,
                Some(parts) => parts,
            },
        };
        let mut words = rest.split_whitespace().map(str::to_owned);
        let (Some(uri), Some(suite)) = (words.next(), words.next()) else { continue };
        let signed_by = options.split_whitespace().find_map(|option| value_of(option, "signed-by")).map(str::to_owned);
        entries.push(Entry { uris: vec![uri], suites: vec![suite], components: words.collect(), signed_by });
    }
    entries
}

fn value_of<'a>(option: &'a str, name: &str) -> Option<&'a str> {
    let (key, value) = option.split_once('=')?;
    key.eq_ignore_ascii_case(name).then_some(value)
}

/// deb822: `Key: value` with continuation lines, stanzas separated by blank lines.
fn stanzas(text: &str) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut fields: Vec<(String, String)> = Vec::new();
    for line in text.lines().chain([""]) {
        if line.starts_with('#') {
            continue;
        }
        if line.trim().is_empty() {
            entries.extend(stanza(&fields));
            fields.clear();
        } else if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = fields.last_mut() {
                value.push(' ');
                value.push_str(line.trim());
            }
        } else if let Some((key, value)) = line.split_once(':') {
            fields.push((key.trim().to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    entries
}

fn stanza(fields: &[(String, String)]) -> Option<Entry> {
    let field = |name: &str| fields.iter().find(|(key, _)| key == name).map(|(_, value)| value.trim());
    let words = |name: &str| field(name).unwrap_or_default().split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    if !words("types").iter().any(|kind| kind == "deb")
        || field("enabled").is_some_and(|value| matches!(value, "no" | "false" | "0" | "off"))
    {
        return None;
    }
    Some(Entry {
        uris: words("uris"),
        suites: words("suites"),
        components: words("components"),
        signed_by: field("signed-by").map(str::to_owned),
    })
}

/// Every one of the files named must be one that Debian's keyring package brings.
fn is_debian_keyring(value: &str) -> bool {
    let mut paths = value.split([',', ' ']).filter(|path| !path.is_empty()).peekable();
    paths.peek().is_some()
        && paths.all(|path| {
            let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
            let name = path.rsplit('/').next().unwrap_or_default();
            matches!(directory, "/usr/share/keyrings" | "/etc/apt/trusted.gpg.d" | "/etc/apt/keyrings")
                && name.starts_with("debian-archive-")
        })
}

/// Printable and without what means something in a sources file, by a method that needs no helper.
fn is_address(uri: &str) -> bool {
    let rest = ["https://", "http://", "mirror+file:/", "mirror+http://", "mirror+https://", "file:/", "copy:/"]
        .into_iter()
        .find_map(|scheme| uri.strip_prefix(scheme));
    rest.is_some_and(|rest| {
        !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'[' | b']' | b'#' | b'"' | b'\'' | b'\\'))
    })
}

/// Mirrors keep Debian under `debian` or `debian-security`, and cloud images list them in files of those names.
fn looks_like_a_mirror(uri: &str) -> bool {
    let last = uri.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    matches!(last.strip_suffix(".list").unwrap_or(last), "debian" | "debian-security")
}

fn is_suite_of(suite: &str, codename: &str) -> bool {
    let rest = suite.strip_prefix(codename).or_else(|| suite.strip_prefix("stable"));
    matches!(rest, Some("" | "-updates" | "-security" | "/updates"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(file: &str, text: &str) -> Sources {
        let mut sources = Sources::default();
        sources.add(Path::new(file), text, "bookworm");
        sources
    }

    fn used(sources: &Sources) -> Vec<String> {
        sources.used.iter().map(|source| format!("{} {}", source.uri, source.suite)).collect()
    }

    #[test]
    fn the_stock_file_is_taken_whole() {
        let text = "Types: deb\n# a comment\nURIs: http://mirror.example/debian\nSuites: bookworm bookworm-updates\nComponents: main\n\
            Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n\nTypes: deb deb-src\nURIs: http://mirror.example/debian-security\n\
            Suites: bookworm-security\nComponents: main contrib\nSigned-By:\n /usr/share/keyrings/debian-archive-keyring.gpg\n";
        let sources = parse("debian.sources", text);
        assert_eq!(
            used(&sources),
            [
                "http://mirror.example/debian bookworm",
                "http://mirror.example/debian bookworm-updates",
                "http://mirror.example/debian-security bookworm-security"
            ]
        );
        assert!(sources.skipped.is_empty());
        let text = sources.render("/k.gpg", "amd64");
        assert!(text.starts_with("deb [arch=amd64 signed-by=/k.gpg] http://mirror.example/debian bookworm main\n"), "{text}");
    }

    #[test]
    fn the_old_format_and_mirrors_without_a_keyring() {
        let text = "# deb http://x/debian bookworm main\ndeb http://mirror.example/debian/ bookworm main contrib # mine\n\
            deb-src http://mirror.example/debian bookworm main\ndeb [ arch=amd64 trusted=yes ] mirror+file:///etc/apt/mirrors/debian-security.list bookworm-security main\n";
        let sources = parse("sources.list", text);
        assert_eq!(
            used(&sources),
            ["http://mirror.example/debian/ bookworm", "mirror+file:///etc/apt/mirrors/debian-security.list bookworm-security"]
        );
        assert!(!sources.render("/k", "amd64").contains("trusted"));
        let guests = sources.render_for_guests("/k");
        assert!(guests.contains("URIs: http://mirror.example/debian/\n") && !guests.contains("bookworm-security"), "{guests}");
    }

    #[test]
    fn another_release_lies_on_the_same_mirrors() {
        let text = "deb http://m.example/debian bookworm main\ndeb http://m.example/debian stable-updates main\n\
            deb http://m.example/debian-security bookworm-security main\n";
        let of = |release: &str| used(&parse("sources.list", text).of_release("bookworm", release));
        assert_eq!(of("bookworm"), used(&parse("sources.list", text)));
        let trixie = [
            "http://m.example/debian trixie",
            "http://m.example/debian trixie-updates",
            "http://m.example/debian-security trixie-security",
        ];
        assert_eq!(of("trixie"), trixie);
        assert_eq!(of("sid"), ["http://m.example/debian sid"]);
    }

    #[test]
    fn others_stay_outside() {
        let check = |file: &str, text: &str, reason: SkipReason| {
            let sources = parse(file, text);
            assert!(sources.used.is_empty(), "{text}");
            assert_eq!(sources.skipped.iter().map(|s| s.reason).collect::<Vec<_>>(), [reason], "{text}");
        };
        check("a.list", "deb [signed-by=/usr/share/keyrings/vendor.gpg] https://a.example/debian bookworm main", SkipReason::OtherKeyring);
        check(
            "a.list",
            "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg,/tmp/mine.gpg] https://a.example/debian bookworm main",
            SkipReason::OtherKeyring,
        );
        check("a.list", "deb [signed-by=/tmp/debian-archive-keyring.gpg] https://a.example/debian bookworm main", SkipReason::OtherKeyring);
        check("a.list", "deb https://packages.example/apt bookworm main", SkipReason::NotAMirror);
        check("a.list", "deb https://vendor.example/linux/debian bookworm stable", SkipReason::NoMain);
        check("a.list", "deb https://a.example/debian sid main", SkipReason::OtherSuite);
        check("a.list", "deb https://a.example/debian bookworm-backports main", SkipReason::OtherSuite);
        check("a.list", "deb cdrom:[Debian]/debian bookworm main", SkipReason::BadAddress);
        check("a.sources", "Types: deb\nURIs: https://a.example/\"/debian\nSuites: bookworm\nComponents: main", SkipReason::BadAddress);
        let key = "Types: deb\nURIs: https://a.example/debian\nSuites: bookworm\nComponents: main\nSigned-By:\n -----BEGIN PGP\n .\n abc\n";
        check("a.sources", key, SkipReason::OtherKeyring);
        for (file, text) in [
            ("a.sources", "Types: deb\nEnabled: no\nURIs: https://a.example/debian\nSuites: bookworm\nComponents: main"),
            ("a.list.disabled", "deb https://a.example/debian bookworm main"),
            ("a.list", "deb [arch=amd64 https://a.example/debian bookworm main"),
            ("a.list", "debug https://a.example/debian bookworm main"),
        ] {
            assert_eq!(parse(file, text), Sources::default(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_nothing_escapes_its_line(text in "[ -~\n\t#:\\[\\]]{0,200}") {
            for file in ["a.list", "a.sources"] {
                let sources = parse(file, &text);
                prop_assert_eq!(sources.render("/k", "amd64").lines().count(), sources.used.len());
            }
        }
    }
}
