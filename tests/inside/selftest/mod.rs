//! The self-test where no other program is needed: its requests, and `underpass probe`. Its page in a browser, and both behind
//! real proxies, are in tests/outside/selftest.

mod endpoints;
mod probe;
mod proxy;
