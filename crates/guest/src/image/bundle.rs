//! What a runtime starts an image with: `config.json` of the OCI runtime specification, made from the image's own.

use serde_json::{Value, json};
use strongroom_wire::image::manifest::ImageConfig;

/// The runtime's configuration: how the program starts, and where its root is. The runtime adds the rest.
pub(crate) fn runtime_config(image: &ImageConfig) -> Value {
    let start = &image.config;
    let args: Vec<&String> = start.entrypoint.iter().chain(&start.cmd).collect();
    let mut env = start.env.clone();
    if !env.iter().any(|variable| variable.starts_with("PATH=")) {
        env.push(DEFAULT_PATH.to_owned());
    }
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "user": user(&start.user),
            "args": args,
            "env": env,
            "cwd": if start.working_dir.is_empty() { "/" } else { &start.working_dir },
        },
        "root": { "path": ROOT },
    })
}

/// Numbers as they stand; a name is for the runtime to look up in the image.
fn user(text: &str) -> Value {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    match (user.parse::<u32>(), group.parse::<u32>()) {
        (Ok(uid), Ok(gid)) => json!({ "uid": uid, "gid": gid }),
        (Ok(uid), Err(_)) if group.is_empty() => json!({ "uid": uid, "gid": 0 }),
        _ if text.is_empty() => json!({ "uid": 0, "gid": 0 }),
        _ => json!({ "uid": 0, "gid": 0, "username": text }),
    }
}

/// Where the image's files are, in the destination.
pub(crate) const ROOT: &str = "rootfs";
const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn program_starts_as_the_image_says() {
        let image = br#"{"os":"linux","config":{"User":"1000:7","Env":["A=b"],"Entrypoint":["/e"],"Cmd":["x"],"WorkingDir":"/w"},"rootfs":{"diff_ids":[]}}"#;
        let config = runtime_config(&ImageConfig::parse(image).unwrap());
        assert_eq!(config["process"]["args"], json!(["/e", "x"]));
        assert_eq!(config["process"]["env"], json!(["A=b", DEFAULT_PATH]));
        assert_eq!(config["process"]["user"], json!({ "uid": 1000, "gid": 7 }));
        assert_eq!(config["process"]["cwd"], "/w");
        assert_eq!(
            user("www"),
            json!({ "uid": 0, "gid": 0, "username": "www" })
        );
    }
}
