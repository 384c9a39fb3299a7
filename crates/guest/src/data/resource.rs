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
            Self::Rest(guest) => guest.resource_at(uri).await,
        }
    }
}
