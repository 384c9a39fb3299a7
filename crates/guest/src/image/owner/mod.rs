//! The owner's side of images: signing them, and encrypting their layers to a key that the broker holds.

mod encrypt;
mod layout;
mod location;
mod sign;

use std::sync::Arc;

use strongroom_wire::image::reference::Repository;
use strongroom_wire::image::registries::{Place, Registries};

use super::error::ImageError;
use super::options::Document;
use super::registry::{Proxies, Registry};

pub use encrypt::{Encrypted, encrypt};
pub use location::Location;
pub use sign::{Signed, sign};

/// How registries are reached.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Logins, Docker's `auth.json`.
    pub credentials: Option<Document>,
    /// Mirrors, blocked and insecure registries.
    pub registries: Option<Document>,
    /// Certificate authorities besides the machine's own, PEM.
    pub extra_roots: Vec<String>,
    /// Proxies on the way.
    pub proxies: Proxies,
}

/// A client, and where registries are.
struct Way {
    registry: Arc<Registry>,
    registries: Registries,
}

impl Way {
    async fn open(access: &Access) -> Result<Self, ImageError> {
        let credentials = super::read_credentials(access.credentials.as_ref(), None).await?;
        let registries = super::read_registries(access.registries.as_ref(), None).await?;
        let registry = Arc::new(Registry::new(
            credentials,
            &access.extra_roots,
            &access.proxies,
        )?);
        Ok(Self {
            registry,
            registries,
        })
    }

    /// The image's own place: what is signed or pushed goes to no mirror.
    fn place(&self, repository: &Repository) -> Result<Place, ImageError> {
        let failed = |source| ImageError::Document {
            what: "the configuration of registries",
            at: None,
            source,
        };
        let mut places = self.registries.places(repository).map_err(failed)?;
        Ok(places.pop().unwrap_or_else(|| Place {
            repository: repository.clone(),
            insecure: false,
        }))
    }
}
