//! Unsealing, carried out: `client::seal` says what to fetch, this fetches it.

use strongroom_client::seal::SigningKeyWanted;
use zeroize::Zeroizing;

use crate::data::resource::Source;
use crate::error::GuestError;

/// Opens a sealed secret: its signing key first, then what it points to.
///
/// # Errors
/// [`GuestError::Seal`] when text or signature is at fault, [`GuestError::SigningKey`] and
/// [`GuestError::SealedResource`] when the source does not give what it points to.
pub async fn unseal(source: &Source, text: &str) -> Result<Zeroizing<Vec<u8>>, GuestError> {
    let wanted = SigningKeyWanted::parse(text)?;
    let key = source
        .resource(wanted.uri())
        .await
        .map_err(GuestError::SigningKey)?;
    let wanted = wanted.on_signing_key(&key)?;
    source
        .resource(wanted.uri())
        .await
        .map_err(GuestError::SealedResource)
}
