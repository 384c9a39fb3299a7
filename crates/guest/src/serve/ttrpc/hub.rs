//! The services of upstream's data hub. Fields are numbered as its interface numbers them.

use std::path::Path;

use strongroom_wire::resource::ResourceUri;

use super::protobuf::{Fields, Message};
use super::{Code, Refusal, mount, unknown};
use crate::attestation::Agent;
use crate::data::resource::Source;
use crate::image::{MeasuredPullError, PullOptions, PulledImage, pull_and_measure, unwrap_key};

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
    match pull_and_measure(agent, image, bundle, options, &source).await {
        Ok((pulled, _)) => Ok(pulled),
        Err(MeasuredPullError::Image(error)) => Err(error.into()),
        Err(MeasuredPullError::Event(error)) => Err(error.into()),
    }
}
