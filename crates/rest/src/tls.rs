//! Whom an array must prove to be: trust settings, fingerprints, and the TLS configuration made of them.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use san_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

/// Where Debian keeps the certificate authorities that the administrator of this node trusts.
const SYSTEM_AUTHORITIES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// How the array's certificate is judged. There is no setting that accepts any certificate.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// It must chain to an authority this node trusts, and name the address.
    #[default]
    System,
    /// It must chain to an authority in this PEM file and no other, and name the address.
    AuthorityFile(PathBuf),
    /// It must be exactly one of these certificates, whoever signed it and whatever it names. The handshake still proves
    /// that the array holds its key.
    Pinned(Vec<Fingerprint>),
}

/// The SHA-256 of a certificate (of its DER form), as `openssl x509 -fingerprint -sha256` prints it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fingerprint([u8; 32]);

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
    pub fn of(der: &[u8]) -> Self {
        Self(Sha256::digest(der).into())
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02X}", if index == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = Error;

    /// 64 hex digits in any case, with or without colons between the pairs.
    fn from_str(text: &str) -> Result<Self> {
        let bad = || {
            Error::new(ErrorKind::InvalidInput, "a certificate fingerprint is 64 hex digits (SHA-256)")
                .with_remedy("take it from: openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE")
        };
        let digits: Vec<u8> = text.trim().bytes().filter(|it| *it != b':').collect();
        if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
            return Err(bad());
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| bad())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| bad())?;
        }
        Ok(Self(bytes))
    }
}

/// A certificate that was presented and refused, as it travels through the layers of the HTTP client.
#[derive(Debug)]
pub(crate) struct Refused {
    presented: Fingerprint,
    why: String,
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; the array presented {}", self.why, self.presented)
    }
}

impl std::error::Error for Refused {}

#[derive(Debug)]
enum Rule {
    Chain(Arc<WebPkiServerVerifier>),
    Pinned(Vec<Fingerprint>),
}

#[derive(Debug)]
struct Verifier {
    rule: Rule,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let presented = Fingerprint::of(leaf);
        let why = match &self.rule {
            Rule::Pinned(pins) if pins.contains(&presented) => return Ok(ServerCertVerified::assertion()),
            Rule::Pinned(pins) => {
                let pins: Vec<String> = pins.iter().map(ToString::to_string).collect();
                format!("it is not the pinned one ({})", pins.join(", "))
            }
            Rule::Chain(verifier) => {
                match verifier.verify_server_cert(leaf, intermediates, name, ocsp, now) {
                    Ok(it) => return Ok(it),
                    Err(rustls::Error::InvalidCertificate(error)) => plainly(&error),
                    Err(error) => return Err(error),
                }
            }
        };
        Err(CertificateError::Other(OtherError(Arc::new(Refused { presented, why }))).into())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, leaf, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, leaf, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// The usual reasons in words.
fn plainly(error: &CertificateError) -> String {
    match error {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            "no trusted authority signed it".into()
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
            "it does not name this address".into()
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => "it has expired".into(),
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "it is not valid yet".into()
        }
        other => other.to_string(),
    }
}

/// The TLS configuration that enforces `trust`.
pub(crate) fn client_config(trust: &Trust) -> Result<ClientConfig> {
    let provider = Arc::new(ring::default_provider());
    let algorithms = provider.signature_verification_algorithms;
    let rule = match trust {
        Trust::Pinned(pins) => Rule::Pinned(pins.clone()),
        Trust::System => chain(Path::new(SYSTEM_AUTHORITIES), &provider)?,
        Trust::AuthorityFile(path) => chain(path, &provider)?,
    };
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| Error::new(ErrorKind::Internal, "cannot set up TLS").caused_by(error))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Verifier { rule, algorithms }))
        .with_no_client_auth();
    Ok(config)
}

fn chain(file: &Path, provider: &Arc<rustls::crypto::CryptoProvider>) -> Result<Rule> {
    let unusable = |why: &str| {
        Error::new(ErrorKind::InvalidInput, format!("no usable certificate authorities: {why}"))
            .on(file.display())
            .with_remedy(
                "name a PEM file with the array's certificate authority, or pin the array's fingerprint",
            )
    };
    let pem = std::fs::read(file).map_err(|error| unusable("the file cannot be read").caused_by(error))?;
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&pem).filter_map(Result::ok).collect();
    let mut roots = RootCertStore::empty();
    // A bundle may hold certificates of kinds that cannot be parsed; they only must not be all.
    let (usable, _) = roots.add_parsable_certificates(certificates);
    if usable == 0 {
        return Err(unusable("the file holds none"));
    }
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider))
        .build()
        .map_err(|error| unusable("they cannot be used").caused_by(error))?;
    Ok(Rule::Chain(verifier))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_reads_what_openssl_prints() {
        let it = Fingerprint::of(b"certificate");
        let shown = it.to_string();
        assert_eq!(shown.len(), 95);
        for text in [shown.clone(), shown.to_lowercase(), shown.replace(':', ""), format!(" {shown}\n")] {
            assert_eq!(text.parse::<Fingerprint>().unwrap(), it);
        }
        for text in ["", "AB", &shown[..94], &shown.replace('A', "x").replace('0', "g")] {
            assert!(text.parse::<Fingerprint>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_file_without_authorities_is_refused() {
        for path in ["/dev/null", "/nonexistent/ca.pem"] {
            let error = client_config(&Trust::AuthorityFile(path.into())).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
            assert!(error.remedy().is_some());
        }
    }
}
