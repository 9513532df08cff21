//! What a command has to say.

use serde::Serialize;

use super::Problem;
use crate::exit;

/// Who reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// A program: the envelope.
    Json,
    /// A person.
    Text,
}

impl Format {
    /// By the flag.
    pub(crate) fn of(json: bool) -> Self {
        if json { Self::Json } else { Self::Text }
    }
}

const NOTHING: &str = "null";

/// A command's result; made in one format only, because nobody reads the other.
#[derive(Debug)]
pub(crate) struct Reply {
    /// JSON already, in parts to be written one after the other: what a command says can be large, and a tree of it would
    /// cost more than the rest of `list`.
    data: Vec<String>,
    text: String,
    problem: Option<Problem>,
    exit: u8,
}

impl Reply {
    /// Success.
    pub(crate) fn new<D: Serialize>(format: Format, data: impl FnOnce() -> D, text: impl FnOnce() -> String) -> Self {
        // Strings, numbers and string keys only: there is nothing that could fail.
        let data = || vec![serde_json::to_string(&data()).unwrap_or_else(|_| NOTHING.to_owned())];
        match format {
            Format::Json => Self { data: data(), ..Self::nothing() },
            Format::Text => Self { text: text(), ..Self::nothing() },
        }
    }

    /// Success, and what there is to say is JSON already, its parts joined.
    pub(crate) fn of_json(data: Vec<String>) -> Self {
        Self { data, ..Self::nothing() }
    }

    /// Success, and this is it for people.
    pub(crate) fn of_text(text: String) -> Self {
        Self { text, ..Self::nothing() }
    }

    /// Success with nothing to say.
    pub(crate) fn nothing() -> Self {
        Self { data: vec![NOTHING.to_owned()], text: String::new(), problem: None, exit: exit::OK }
    }

    /// Failure with nothing else to say.
    pub(crate) fn failed(problem: Problem) -> Self {
        Self::nothing().but(Some(problem))
    }

    /// The same with a problem, if there is one: a partial failure has both.
    #[must_use]
    pub(crate) fn but(mut self, problem: Option<Problem>) -> Self {
        self.exit = problem.as_ref().map_or(exit::OK, Problem::exit);
        self.problem = problem;
        self
    }

    /// As JSON, in parts.
    pub(super) fn data(&self) -> &[String] {
        &self.data
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn problem(&self) -> Option<&Problem> {
        self.problem.as_ref()
    }

    pub(super) fn exit(&self) -> u8 {
        self.exit
    }
}
