//! What is recorded of a request: what was asked for, and of the image what was not.

use std::collections::BTreeMap;

use smolvm_host::image::Image;
use smolvm_host::net::rights;
use smolvm_model::error_code::ErrorCode;
use smolvm_model::quantity::Memory;
use smolvm_model::spec::{GuestInit, MAX_PAIRS, NetworkMode, Spec, VarName, check_value};

use super::{CreateRequest, Init};
use crate::error::Error;

pub(super) fn spec_of(request: &CreateRequest, image: &Image) -> Result<Spec, Error> {
    let memory = match request.memory {
        Some(memory) => memory,
        None => Memory::from_mib(u64::from(image.default_memory_mib))
            .map_err(|e| Error::new(ErrorCode::Internal, "the image asks for an odd amount of memory").because(e))?,
    };
    let network = match request.network {
        Some(NetworkMode::Tap) => rights::can_tap().map(|()| NetworkMode::Tap).map_err(|e| {
            Error::new(ErrorCode::PermissionDenied, "this user cannot have --net tap").hint("run it as root, or use --net user").because(e)
        })?,
        Some(mode) => mode,
        None if rights::can_tap().is_ok() => NetworkMode::Tap,
        None => NetworkMode::User,
    };
    Ok(Spec {
        // What a short name means may change; which image it was does not.
        image: image.name.parse().unwrap_or_else(|_| request.image.clone()),
        image_digest: image.digest.to_string(),
        cpus: request.cpus.unwrap_or_default(),
        memory,
        disk: request.disk.unwrap_or_default(),
        network,
        env: merged(image, &request.env),
        workdir: image.origin.as_ref().and_then(|origin| origin.run.working_dir.clone()),
        user: image.origin.as_ref().and_then(|origin| origin.run.user.clone()),
        labels: request.labels.clone(),
        accelerator: request.accelerator,
        init: match request.init {
            Init::Agent => None,
            Init::Image => Some(init_of(image)?),
        },
        restored_from: None,
    })
}

/// How an image's own init is asked to power off.
fn init_of(image: &Image) -> Result<GuestInit, Error> {
    let said = image.origin.as_ref().and_then(|origin| origin.run.stop_signal.as_ref());
    let stop_signal = said.map(|signal| signal.parse()).transpose().map_err(|e| {
        Error::new(ErrorCode::Refused, format!("the image \"{}\" cannot be stopped as it says", image.name))
            .hint("whoever made it has to mend its StopSignal")
            .because(e)
    })?;
    Ok(GuestInit { stop_signal })
}

/// What the image says, and what was asked for, which is stronger. Names that no shell takes are left out.
fn merged(image: &Image, asked: &BTreeMap<VarName, String>) -> BTreeMap<VarName, String> {
    // Images of this host's own are what the agent has as defaults.
    let own = image.origin.iter().flat_map(|origin| &origin.run.env);
    let mut env: BTreeMap<VarName, String> = own
        .filter(|(key, value)| check_value(key, value).is_ok())
        .filter_map(|(key, value)| Some((key.parse().ok()?, value.clone())))
        .take(MAX_PAIRS.saturating_sub(asked.len()))
        .collect();
    env.extend(asked.clone());
    env
}
