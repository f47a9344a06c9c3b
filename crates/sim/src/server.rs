//! Serving a simulated array over HTTPS.

/// How the management API of a simulated array is as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiState {
    /// It answers.
    Up,
    /// It refuses connections.
    Refusing,
    /// It takes connections at most and never answers.
    BlackHole,
}

/// A connection that broke instead of carrying an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Refused: the request was never sent.
    Refused,
    /// Broken before the request was carried out. The client cannot tell this from [`Cut::Lost`].
    Reset,
    /// Broken after the request was carried out.
    Lost,
}
