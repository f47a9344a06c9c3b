//! What becomes of each verb when the array or the road to it misbehaves.
