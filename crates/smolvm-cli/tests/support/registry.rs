//! A registry on the loopback of a place, with one image in it; its digests are computed by `sha256sum`.

use std::net::{Ipv4Addr, SocketAddr};

use testkit::HttpServer;

use super::Place;

/// Where it listens unless a test wants it elsewhere.
pub(crate) const PORT: u16 = 5000;

/// How a registry names the parts of an image.
#[derive(Clone, Copy)]
pub(crate) struct Types {
    manifest: &'static str,
    config: &'static str,
    layer: &'static str,
}

/// The names that OCI gave them.
pub(crate) const OCI: Types = Types {
    manifest: "application/vnd.oci.image.manifest.v1+json",
    config: "application/vnd.oci.image.config.v1+json",
    layer: "application/vnd.oci.image.layer.v1.tar",
};

/// Docker's, of its second schema; a layer that is not packed has none of its own.
pub(crate) const DOCKER: Types = Types {
    manifest: "application/vnd.docker.distribution.manifest.v2+json",
    config: "application/vnd.docker.container.image.v1+json",
    layer: "application/vnd.docker.image.rootfs.diff.tar",
};

/// Serves `127.0.0.1:PORT/test/app:1`: these layers, and this configuration of how it is run.
pub(crate) fn serve(place: &Place, layers: &[Vec<u8>], run: &str) -> HttpServer {
    serve_as(place, OCI, layers, run)
}

/// The same with other names for its parts.
pub(crate) fn serve_as(place: &Place, types: Types, layers: &[Vec<u8>], run: &str) -> HttpServer {
    serve_files(place, PORT, &files(place, types, layers, run))
}

/// These files alone, on a port of the loopback.
pub(crate) fn serve_files(place: &Place, port: u16, files: &[(String, Vec<u8>)]) -> HttpServer {
    let files: Vec<(&str, &[u8])> = files.iter().map(|(path, bytes)| (path.as_str(), bytes.as_slice())).collect();
    HttpServer::with_files(place.net(), SocketAddr::from((Ipv4Addr::LOCALHOST, port)), &files)
}

/// Everything that a registry has of an image, by the paths of its requests.
pub(crate) fn files(place: &Place, types: Types, layers: &[Vec<u8>], run: &str) -> Vec<(String, Vec<u8>)> {
    let digest = |bytes: &[u8]| {
        let file = place.scratch().join("blob");
        std::fs::write(&file, bytes).unwrap();
        let ran = place.cmd("sha256sum").arg(&file).run();
        format!("sha256:{}", ran.assert_ok().stdout.split_whitespace().next().unwrap())
    };
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    let mut blob = |kind: &str, bytes: Vec<u8>| {
        let (digest, size) = (digest(&bytes), bytes.len());
        files.push((format!("/v2/test/app/blobs/{digest}"), bytes));
        (format!(r#"{{"mediaType":"{kind}","digest":"{digest}","size":{size}}}"#), digest)
    };
    let layers: Vec<(String, String)> = layers.iter().map(|layer| blob(types.layer, layer.clone())).collect();
    let ids: Vec<String> = layers.iter().map(|(_, digest)| format!("{digest:?}")).collect();
    let config =
        format!(r#"{{"os":"linux","architecture":"amd64","config":{run},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, ids.join(","));
    let (config, _) = blob(types.config, config.into_bytes());
    let descriptors: Vec<String> = layers.into_iter().map(|(descriptor, _)| descriptor).collect();
    let manifest =
        format!(r#"{{"schemaVersion":2,"mediaType":"{}","config":{config},"layers":[{}]}}"#, types.manifest, descriptors.join(","));
    files.push(("/v2/test/app/manifests/1".to_owned(), manifest.into_bytes()));
    files
}

/// A layer of one small file.
pub(crate) fn small_layer(place: &Place, name: &str) -> Vec<u8> {
    std::fs::write(place.scratch().join(name), name).unwrap();
    pack(place, place.scratch(), name)
}

/// The root of the image `minimal`, taken out of its file system by `debugfs`.
pub(crate) fn minimal_layer(place: &Place) -> Vec<u8> {
    let root = place.scratch().join("minimal-root");
    std::fs::create_dir(&root).unwrap();
    let digest = std::fs::read_to_string(place.path("cache/images/by-name/minimal")).unwrap();
    let image = place.path("cache/images").join(digest.trim().trim_start_matches("sha256:")).join("image.ext4");
    place.cmd("debugfs").args(&["-R", &format!("rdump / {}", root.display())]).arg(&image).run().assert_ok();
    pack(place, &root, ".")
}

fn pack(place: &Place, directory: &std::path::Path, what: &str) -> Vec<u8> {
    let tar = place.scratch().join("layer.tar");
    place
        .cmd("tar")
        .arg("-C")
        .arg(directory)
        .args(&["--exclude=layer.tar", "--exclude=lost+found", "-cf"])
        .arg(&tar)
        .arg(what)
        .run()
        .assert_ok();
    std::fs::read(&tar).unwrap()
}
