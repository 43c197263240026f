//! Load generator and measuring stick of margay.
