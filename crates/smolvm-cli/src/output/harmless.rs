//! Text of unknown origin, made harmless for a terminal.

use std::fmt::Write;

/// On one line: every control character becomes visible.
pub(crate) fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    push_harmless(&mut out, text);
    out
}

/// The same, behind what is there.
pub(super) fn push_harmless(out: &mut String, text: &str) {
    // Nearly everything there is to tell, and nothing of it drives a terminal.
    if text.bytes().all(|b| b == b' ' || b.is_ascii_graphic()) {
        out.push_str(text);
    } else {
        text.chars().for_each(|c| push(out, c));
    }
}

fn push(out: &mut String, c: char) {
    // Beside control characters: what turns the direction of writing, or hides.
    let drives = c.is_control() || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    if drives {
        // Writing into a String cannot fail.
        let _ = write!(out, "{}", c.escape_default());
    } else {
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_drives_a_terminal() {
        assert_eq!(harmless("a\u{1b}[31mb\nc"), "a\\u{1b}[31mb\\nc");
        assert_eq!(harmless("a\r\tb\u{9b}"), "a\\r\\tb\\u{9b}");
        assert_eq!(harmless("\u{202e}evil"), "\\u{202e}evil");
        assert_eq!(harmless("späte Grüße 日本"), "späte Grüße 日本");
    }
}
