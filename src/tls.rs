//! TLS: ring as the one provider of cryptography.

/// Makes ring the provider that rustls uses. Call it first in `main`: without one, the first TLS
/// connection panics. A second call does nothing.
pub fn install_provider() {
    // Refused only where one is installed already, and there is only this one.
    rustls::crypto::ring::default_provider().install_default().ok();
}
