//! `[[credentials]]` of `cdh.toml`: resources that lie in files before the guest serves, for programs that read files.

use std::fs::DirBuilder;
use std::io::Write as _;
use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
use std::path::Path;
use std::time::Duration;

use strongroom_wire::resource::ResourceUri;
use zeroize::Zeroizing;

use crate::attestation::Agent;
use crate::config::Credential;
use crate::data::patience::{Patience, patiently};
use crate::error::GuestError;
use crate::placement::{Placement, check_filesystem, file_error, io_error};

/// Fetches every one of them, then writes each, whole and with mode 0600. While the way to the broker fails it is tried
/// again, for as long as `wait`; a denial is final.
///
/// # Errors
/// [`GuestError::File`], naming the file: the guest must not start without it. [`GuestError::NotInMemory`].
pub async fn place(
    credentials: &[Credential],
    agent: &Agent,
    placement: Placement,
    wait: Duration,
) -> Result<(), GuestError> {
    let patience = Patience::from_now(wait);
    let mut fetched = Vec::new();
    for credential in credentials {
        let path = &credential.path;
        let uri: ResourceUri = credential.resource_uri.parse().map_err(|error| {
            GuestError::Launch(format!(
                "credentials.resource_uri for {}: {error}",
                path.display()
            ))
        })?;
        let fetch = || async { Ok(agent.get_resource(&uri).await?) };
        let bytes = patiently(patience, "not fetched yet; trying again", fetch).await;
        fetched.push((path, bytes.map_err(|error| file_error(path, error))?));
    }
    for (path, bytes) in fetched {
        write(path, &bytes, placement).map_err(|error| file_error(path, error))?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &Zeroizing<Vec<u8>>, placement: Placement) -> Result<(), GuestError> {
    let folder = path.parent().ok_or(GuestError::UnusablePlaintext(
        "a credential needs a file's path",
    ))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(folder)
        .map_err(io_error("making its folder"))?;
    let opened = std::fs::File::open(folder).map_err(io_error("opening its folder"))?;
    check_filesystem(&opened, folder, placement)?;
    let mut file = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o600))
        .tempfile_in(folder)
        .map_err(io_error("making a file beside it"))?;
    file.write_all(bytes).map_err(io_error("writing it"))?;
    file.persist(path)
        .map(drop)
        .map_err(|error| io_error("giving it its name")(error.error))
}
