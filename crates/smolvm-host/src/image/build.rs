//! Which images can be built, and building one once.

use std::path::Path;

use super::error::ImageError;
use super::manifest::ManifestError;
use super::progress::Report;
use super::store::{self, Image};
use super::{debian, guard, minimal};

/// An image that `setup` knows how to build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BuiltIn {
    /// Busybox and the files it needs.
    Minimal,
    /// Debian with python3, git and curl.
    Debian,
}

/// What to do with what is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Renew {
    /// Keep it, if it is whole.
    IfMissing,
    /// Make it again from what the mirror has now.
    Always,
}

impl BuiltIn {
    /// All of them, the quickest first.
    pub const ALL: [Self; 2] = [Self::Minimal, Self::Debian];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Minimal => minimal::NAME,
            Self::Debian => debian::NAME,
        }
    }

    /// The one with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|image| image.name() == name)
    }
}

/// Builds an image and points its name at it; one that is there is kept unless it shall be renewed.
pub fn prepare_image(cache: &Path, which: BuiltIn, renew: Renew, report: Report<'_>) -> Result<Image, ImageError> {
    if renew == Renew::IfMissing
        && let Some(image) = intact(cache, which.name())?
    {
        return Ok(image);
    }
    // Until its name leads to it nobody takes it for one that nobody needs.
    let _using = guard::using(cache, guard::MAKER_WAIT)?;
    match which {
        BuiltIn::Minimal => minimal::build(cache, renew, report),
        BuiltIn::Debian => debian::build(cache, renew, report),
    }
}

/// The image if nothing is wrong with it; what is damaged counts as missing. Reads all of it.
pub(super) fn intact(cache: &Path, name: &str) -> Result<Option<Image>, ImageError> {
    match store::resolve(cache, name).and_then(|image| store::verify(&image).map(|()| image)) {
        Ok(image) => Ok(Some(image)),
        Err(error @ ImageError::Manifest(ManifestError::Newer { .. })) => Err(error),
        Err(_) => Ok(None),
    }
}

/// Commands that templates of an image run before they are parked: what is used most is then in every fork's memory.
pub fn rehearsal(image: &str) -> Vec<Vec<String>> {
    let lines: &[&[&str]] = match image {
        // Without byte code written to the disk of every fork.
        "debian" => &[
            &["env", "PYTHONDONTWRITEBYTECODE=1", "python3", "-c", "import json, os, subprocess, sys"],
            &["git", "--version"],
            &["bash", "-c", "true"],
        ],
        _ => &[],
    };
    lines.iter().map(|line| line.iter().map(|word| (*word).to_owned()).collect()).collect()
}
