//! The client against a real socket.
