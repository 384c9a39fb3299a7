//! `SecureMount`: a disk of the host's as encrypted scratch space, in upstream's words.
//!
//! Of upstream's kinds there is the one whose data cannot be changed by the host without being noticed at its header: an
//! empty device, LUKS2, a file system. The others are refused by name.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::protobuf::Fields;
use super::{Code, Refusal};
use crate::attestation::Agent;
use crate::scratch::{DEFAULT_FILESYSTEM, Existing, Scratch, ScratchKey, ScratchName};

pub(super) async fn mount(agent: &Agent, request: &Fields<'_>) -> Result<(), Refusal> {
    let wanted = Wanted::new(request.text(1)?, &request.map(2)?, request.text(4)?)?;
    if !request.texts(3)?.is_empty() {
        tracing::warn!(
            "the flags of a secure mount are not followed: it is mounted nodev and nosuid"
        );
    }
    let key = match &wanted.key {
        None => ScratchKey::ephemeral()?,
        Some(name) => ScratchKey::held_elsewhere(fetch(agent, name).await?)?,
    };
    let opened = tokio::task::spawn_blocking(move || {
        let scratch = wanted.scratch;
        if let Some(at) = &scratch.mount {
            std::fs::create_dir_all(at).map_err(|error| {
                Refusal::new(Code::Internal, format!("{}: {error}", at.display()))
            })?;
        }
        // A header that a killed guest left behind names a key that nobody has any more.
        if !scratch.name.mapped().exists() {
            std::fs::remove_file(&scratch.header).ok();
        }
        Ok(scratch.open(&key).map(drop)?)
    });
    opened.await.unwrap_or_else(|_| {
        Err(Refusal::new(
            Code::Internal,
            "opening the device was aborted",
        ))
    })
}

async fn fetch(agent: &Agent, name: &str) -> Result<Zeroizing<Vec<u8>>, Refusal> {
    if name.starts_with("sealed.") {
        return Ok(agent.unseal(name).await?);
    }
    let uri = name
        .parse()
        .map_err(|error| invalid(format!("key: {error}; name kbs:///repository/type/tag")))?;
    Ok(agent.get_resource(&uri).await?)
}

struct Wanted {
    scratch: Scratch,
    key: Option<String>,
}

impl Wanted {
    fn new(kind: &str, options: &BTreeMap<&str, &str>, mount_point: &str) -> Result<Self, Refusal> {
        if kind != "block-device" {
            return Err(unsupported(format!(
                "volume_type {:?}: only block-device is mounted here",
                shown(kind)
            )));
        }
        let option = |name: &str| options.get(name).copied();
        for (name, wanted) in [
            ("sourceType", "empty"),
            ("targetType", "fileSystem"),
            ("encryptionType", "luks2"),
        ] {
            match option(name) {
                Some(given) if given == wanted => {}
                None if name != "sourceType" => {}
                given => {
                    return Err(unsupported(format!(
                        "{name} is {:?}, and only {wanted:?} is mounted here: the header of an encrypted device that the host \
                         keeps is the host's to exchange",
                        shown(given.unwrap_or_default())
                    )));
                }
            }
        }
        for name in options.keys().filter(|name| !OPTIONS.contains(name)) {
            tracing::warn!(
                option = shown(name),
                "an option of a secure mount is not followed"
            );
        }
        if !Path::new(mount_point).is_absolute() {
            return Err(invalid("mount_point must be an absolute path"));
        }
        let device = match (option("deviceId"), option("devicePath")) {
            (Some(id), _) => device_of(id)?,
            (None, Some(path)) => PathBuf::from(path),
            (None, None) => return Err(invalid("name the device: deviceId or devicePath")),
        };
        let name = match option("mapperName") {
            Some(name) => name.to_owned(),
            None => default_name(&device),
        };
        let name: ScratchName = name
            .parse()
            .map_err(|error| invalid(format!("mapperName: {error}")))?;
        let filesystem = option("filesystemType").unwrap_or(DEFAULT_FILESYSTEM);
        if filesystem.is_empty() || !filesystem.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(invalid("filesystemType must be a name such as ext4"));
        }
        Ok(Self {
            key: option("key").map(str::to_owned),
            scratch: Scratch {
                device,
                header: name.header_of_mount(),
                name,
                integrity: option("dataIntegrity") == Some("true"),
                // That is what the caller said with sourceType.
                existing: Existing::Overwrite,
                filesystem: Some(filesystem.to_owned()),
                mount: Some(PathBuf::from(mount_point)),
            },
        })
    }
}

/// The device of a kernel's number, `8:16`.
fn device_of(id: &str) -> Result<PathBuf, Refusal> {
    let is_number = |part: &str| part.parse::<u32>().is_ok() && !part.starts_with('+');
    let proper = id
        .split_once(':')
        .is_some_and(|(major, minor)| is_number(major) && is_number(minor));
    if !proper {
        return Err(invalid("deviceId must be two numbers such as 8:16"));
    }
    let link = Path::new("/sys/dev/block").join(id);
    let target = std::fs::read_link(&link).map_err(|error| {
        Refusal::new(
            Code::NotFound,
            format!("there is no block device {id}: {error}"),
        )
    })?;
    let name = target
        .file_name()
        .ok_or_else(|| invalid(format!("the device {id} has no name")))?;
    Ok(Path::new("/dev").join(name))
}

fn default_name(device: &Path) -> String {
    let name = device.file_name().and_then(|name| name.to_str());
    format!("cdh-{}", name.unwrap_or("device"))
}

fn shown(text: &str) -> String {
    text.chars().take(64).collect()
}

fn invalid(text: impl Into<String>) -> Refusal {
    Refusal::new(Code::InvalidArgument, text)
}

fn unsupported(text: String) -> Refusal {
    Refusal::new(Code::Unimplemented, text)
}

/// Those that are followed, and the one that only speeds things up.
const OPTIONS: [&str; 9] = [
    "deviceId",
    "devicePath",
    "sourceType",
    "targetType",
    "filesystemType",
    "encryptionType",
    "dataIntegrity",
    "mapperName",
    "key",
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn options() -> BTreeMap<&'static str, &'static str> {
        BTreeMap::from([
            ("devicePath", "/dev/trusted_store"),
            ("sourceType", "empty"),
            ("targetType", "fileSystem"),
            ("encryptionType", "luks2"),
            ("mkfsOpts", "-E lazy_journal_init"),
        ])
    }

    #[test]
    fn katas_trusted_storage_is_not_understood() {
        let wanted = Wanted::new("block-device", &options(), "/run/image").unwrap();
        assert_eq!(wanted.scratch.device, Path::new("/dev/trusted_store"));
        assert_eq!(wanted.scratch.name.to_string(), "cdh-trusted_store");
        // Removing it before a mount must not remove another's.
        assert_ne!(wanted.scratch.header, wanted.scratch.name.default_header());
        assert_eq!(wanted.scratch.existing, Existing::Overwrite);
        assert!(wanted.key.is_none() && !wanted.scratch.integrity);
    }

    #[test]
    fn kind_that_the_host_could_change_is_mounted() {
        for (name, value) in [
            ("sourceType", "encrypted"),
            ("encryptionType", "zfs"),
            ("targetType", "device"),
        ] {
            let mut options = options();
            options.insert(name, value);
            let refusal = Wanted::new("block-device", &options, "/m").err().unwrap();
            assert_eq!(refusal.code, Code::Unimplemented);
            assert!(refusal.text.contains(name), "{}", refusal.text);
        }
        let refusal = Wanted::new("alibaba-cloud-oss", &options(), "/m")
            .err()
            .unwrap();
        assert_eq!(refusal.code, Code::Unimplemented);
    }

    #[test]
    fn device_or_place_that_is_none_is_used() {
        for (name, value) in [
            ("deviceId", "8"),
            ("deviceId", "../8:1"),
            ("deviceId", "+8:1"),
            ("mapperName", "../x"),
            ("filesystemType", "../sh"),
        ] {
            let mut options = options();
            options.insert(name, value);
            let refusal = Wanted::new("block-device", &options, "/m").err().unwrap();
            assert_eq!(refusal.code, Code::InvalidArgument, "{name}={value}");
        }
        assert!(Wanted::new("block-device", &options(), "m").is_err());
    }
}
