//! Applications that nobody here wrote, in Chromium, behind a network that leaves one HTTP transport: each is used
//! by its own user interface, with the script that the sidecar writes into its pages and nothing else, and the
//! network is cut meanwhile. Pictures of what was seen go to `target/apps`. `UNDERPASS_NETWORK=poll` uses that
//! network only. Must not touch: fixed ports, the network beyond this machine, what its user has set up for himself.

mod jupyterlab;
mod mqtt;
mod server;
mod stage;
mod streamlit;
