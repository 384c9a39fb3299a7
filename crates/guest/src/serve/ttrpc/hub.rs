//! The services of upstream's data hub. Fields are numbered as its interface numbers them.

use std::path::Path;

use strongroom_wire::resource::ResourceUri;

use super::protobuf::{Fields, Message};
use super::{Code, Refusal, mount, unknown};
use crate::attestation::Agent;
use crate::data::resource::Source;
use crate::image::{PullOptions, PulledImage, pull, unwrap_key};

pub(super) async fn answer(
    agent: &Agent,
    options: &PullOptions,
    service: &str,
    method: &str,
    request: &Fields<'_>,
) -> Result<Message, Refusal> {
    let answer = Message::default();
    match (service, method) {
        ("api.GetResourceService", "GetResource") => {
            let uri: ResourceUri = request.text(1)?.parse().map_err(|error| {
                Refusal::new(
                    Code::InvalidArgument,
                    format!("ResourcePath: {error}; write kbs:///repository/type/tag"),
                )
            })?;
            Ok(answer.bytes(1, &agent.get_resource(&uri).await?))
        }
        ("api.SealedSecretService", "UnsealSecret") => {
            Ok(answer.bytes(1, &agent.unseal(request.text(1)?).await?))
        }
        ("api.ImagePullService", "PullImage") => {
            let bundle = Path::new(request.text(2)?);
            let pulled = pull_image(agent, options, request.text(1)?, bundle).await?;
            Ok(answer.text(1, &pulled.manifest_digest.to_string()))
        }
        ("api.SecureMountService", "SecureMount") => {
            mount::mount(agent, request).await.map(|()| answer)
        }
        ("keyprovider.KeyProviderService", "UnWrapKey") => {
            let source = Source::Agent(agent.clone());
            let output = unwrap_key(request.bytes(1)?, Some(&source)).await?;
            Ok(answer.bytes(1, &output))
        }
        ("keyprovider.KeyProviderService", "WrapKey") => Err(Refusal::new(
            Code::Unimplemented,
            "a guest opens images and encrypts none: the owner does, with `strongroom image encrypt`",
        )),
        _ => Err(unknown()),
    }
}

/// An image that cannot be measured where it has to be does not run: what was unpacked is taken away again.
async fn pull_image(
    agent: &Agent,
    options: &PullOptions,
    image: &str,
    bundle: &Path,
) -> Result<PulledImage, Refusal> {
    if !bundle.is_absolute() {
        return Err(Refusal::new(
            Code::InvalidArgument,
            "bundle_path must be an absolute path, of a folder that is new or empty",
        ));
    }
    let source = Source::Agent(agent.clone());
    let pulled = pull(image, bundle, options, Some(&source)).await?;
    let event = pulled.event();
    let measured = agent
        .measure(event.domain, event.operation, &event.content, None)
        .await;
    match measured {
        Ok(measured) => {
            tracing::info!(image, digest = %pulled.manifest_digest, ?measured, "an image was pulled");
            Ok(pulled)
        }
        Err(error) => {
            let removed = [
                std::fs::remove_dir_all(&pulled.rootfs),
                std::fs::remove_file(bundle.join("config.json")),
            ];
            if let Some(error) = removed.into_iter().find_map(Result::err) {
                tracing::error!(%error, bundle = %bundle.display(), "an image that was not measured stays there");
            }
            Err(error.into())
        }
    }
}
