//! Changes of how an image is run, written as the instructions of a Dockerfile that say so: `CMD ["sh"]`, `ENV A=1`.

use super::config::RunConfig;

/// Why an instruction cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    /// Not one of those that say how an image is run.
    #[error("{instruction:?} is none of CMD, ENTRYPOINT, ENV, EXPOSE, LABEL, STOPSIGNAL, USER, VOLUME, WORKDIR")]
    Unknown {
        /// What was said.
        instruction: String,
    },
    /// Nothing comes after its name.
    #[error("{0} says nothing")]
    Empty(&'static str),
    /// A quote that is not closed.
    #[error("a quote of {0} is not closed")]
    Quote(&'static str),
    /// Not `KEY=VALUE`.
    #[error("{instruction} takes KEY=VALUE, not {text:?}")]
    Pair {
        /// Which.
        instruction: &'static str,
        /// What was said.
        text: String,
    },
    /// Not a port.
    #[error("{0:?} is not a port: 80, 80/tcp or 53/udp")]
    Port(String),
}

impl RunConfig {
    /// Follows one instruction.
    pub fn change(&mut self, instruction: &str) -> Result<(), ChangeError> {
        let instruction = instruction.trim();
        let (name, rest) = instruction.split_once(char::is_whitespace).unwrap_or((instruction, ""));
        let rest = rest.trim();
        let said = |name| if rest.is_empty() { Err(ChangeError::Empty(name)) } else { Ok(rest) };
        match name.to_ascii_uppercase().as_str() {
            "CMD" => self.cmd = command(rest),
            "ENTRYPOINT" => self.entrypoint = command(rest),
            "ENV" => self.env.extend(pairs("ENV", said("ENV")?)?),
            "LABEL" => self.labels.extend(pairs("LABEL", said("LABEL")?)?),
            "EXPOSE" => {
                for port in said("EXPOSE")?.split_whitespace() {
                    add(&mut self.exposed_ports, port_of(port)?);
                }
            }
            "VOLUME" => {
                let said = said("VOLUME")?;
                for volume in json(said).map_or_else(|| words("VOLUME", said), Ok)? {
                    add(&mut self.volumes, volume);
                }
            }
            "STOPSIGNAL" => self.stop_signal = Some(said("STOPSIGNAL")?.to_owned()),
            "USER" => self.user = Some(said("USER")?.to_owned()),
            "WORKDIR" => self.working_dir = Some(within(self.working_dir.as_deref(), said("WORKDIR")?)),
            _ => return Err(ChangeError::Unknown { instruction: name.chars().take(40).collect() }),
        }
        Ok(())
    }
}

/// A list of words as they are, or a line for the shell. Nothing at all takes away what was there.
fn command(text: &str) -> Vec<String> {
    match json(text) {
        Some(words) => words,
        None if text.is_empty() => Vec::new(),
        None => ["/bin/sh", "-c", text].map(str::to_owned).into(),
    }
}

fn json(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// A relative one is in the one before, as in a Dockerfile.
fn within(before: Option<&str>, directory: &str) -> String {
    if directory.starts_with('/') { directory.to_owned() } else { format!("{}/{directory}", before.unwrap_or("").trim_end_matches('/')) }
}

fn port_of(text: &str) -> Result<String, ChangeError> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let good = number.parse::<u16>().is_ok() && !number.starts_with('+') && matches!(protocol, "tcp" | "udp" | "sctp");
    if good { Ok(format!("{number}/{protocol}")) } else { Err(ChangeError::Port(text.chars().take(40).collect())) }
}

fn add(list: &mut Vec<String>, one: String) {
    if !list.contains(&one) {
        list.push(one);
        list.sort();
    }
}

/// `A=1 B="two words"`, or the old form `A the rest of the line`.
fn pairs(instruction: &'static str, text: &str) -> Result<Vec<(String, String)>, ChangeError> {
    let bad = |text: &str| ChangeError::Pair { instruction, text: text.chars().take(80).collect() };
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (key, value) = text.split_once(char::is_whitespace).ok_or_else(|| bad(text))?;
        return Ok(vec![(key.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| {
        let (key, value) = word.split_once('=').filter(|(key, _)| !key.is_empty()).ok_or_else(|| bad(&word))?;
        Ok((key.to_owned(), value.to_owned()))
    };
    words(instruction, text)?.into_iter().map(pair).collect()
}

/// Words as a shell splits them, without anything that a shell would fill in.
fn words(instruction: &'static str, text: &str) -> Result<Vec<String>, ChangeError> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => word.get_or_insert_default().extend(letters.next()),
            (letter, Some(open)) if letter == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (letter, None) if letter.is_whitespace() => words.extend(word.take()),
            (letter, _) => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    if quote.is_some() { Err(ChangeError::Quote(instruction)) } else { Ok(words) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(instructions: &[&str]) -> Result<RunConfig, ChangeError> {
        let mut run = RunConfig::default();
        instructions.iter().try_for_each(|instruction| run.change(instruction)).map(|()| run)
    }

    #[test]
    fn instructions_mean_what_they_mean_in_a_dockerfile() {
        let run = changed(&[
            r#"CMD ["serve", "--on", "80"]"#,
            "entrypoint /entry now",
            r#"ENV A=1 B="two words" C=a\ b D='$HOME'"#,
            "ENV OLD the rest of it",
            "LABEL org.example.x=y",
            "EXPOSE 80 53/udp 80/tcp",
            r#"VOLUME ["/data", "/more"]"#,
            "VOLUME /third",
            "STOPSIGNAL SIGRTMIN+3",
            "USER app:web",
            "WORKDIR /srv",
            "WORKDIR app",
        ])
        .unwrap();
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        assert_eq!((run.cmd, run.entrypoint), (words(&["serve", "--on", "80"]), words(&["/bin/sh", "-c", "/entry now"])));
        let env: Vec<(&str, &str)> = run.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        assert_eq!(env, [("A", "1"), ("B", "two words"), ("C", "a b"), ("D", "$HOME"), ("OLD", "the rest of it")]);
        assert_eq!((run.exposed_ports, run.volumes), (words(&["53/udp", "80/tcp"]), words(&["/data", "/more", "/third"])));
        assert_eq!((run.stop_signal.as_deref(), run.user.as_deref()), (Some("SIGRTMIN+3"), Some("app:web")));
        assert_eq!((run.working_dir.as_deref(), &run.labels["org.example.x"]), (Some("/srv/app"), &"y".to_owned()));
        assert_eq!(changed(&["CMD x", "CMD"]).unwrap(), RunConfig::default());
    }

    #[test]
    fn what_is_none_is_refused() {
        for bad in
            ["", "RUN true", "ENV", "ENV A", "ENV =x", "ENV A=\"x", "EXPOSE 70000", "EXPOSE +80", "EXPOSE 80/icmp", "WORKDIR", "USER "]
        {
            assert!(changed(&[bad]).is_err(), "{bad}");
        }
    }
}
