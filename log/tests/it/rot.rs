//! Bits flip in what was durable: it is reported, never left out in silence.
