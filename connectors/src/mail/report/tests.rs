//! Reports in the shapes of the servers that send them, forged ones, and bytes that are none.


