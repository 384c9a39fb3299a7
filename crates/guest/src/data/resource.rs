//! Where resources come from: an agent in this process, or a guest that runs beside it.

use strongroom_client::{ClientError, GuestApi};
use strongroom_wire::resource::ResourceUri;
use zeroize::Zeroizing;

use crate::attestation::Agent;

/// A source of resources.
#[derive(Clone)]
pub enum Source {
    /// An agent in this process.
    Agent(Agent),
    /// The REST API of a guest that runs beside this process.
    Rest(GuestApi),
}

impl Source {
    /// Fetches a resource.
    ///
    /// # Errors
    /// As the source: not found, denied, or not reachable.
    pub async fn resource(&self, uri: &ResourceUri) -> Result<Zeroizing<Vec<u8>>, ClientError> {
        match self {
            Self::Agent(agent) => agent.get_resource(uri).await,
            // Its paths name no host, and another broker must not answer.
            Self::Rest(_) if !uri.host().is_empty() => Err(ClientError::Rejected {
                what: uri.to_string(),
                status: 400,
                detail: "the guest's REST API asks the guest's own broker only; write kbs:///repository/type/tag, or ask its \
                         data hub's socket (strongroom guest run --ttrpc)"
                    .to_owned(),
            }),
            Self::Rest(guest) => {
                let path = uri
                    .to_resource_path()
                    .map_err(|error| ClientError::Rejected {
                        what: uri.to_string(),
                        status: 400,
                        detail: error.to_string(),
                    })?;
                guest.resource(&path).await
            }
        }
    }
}
