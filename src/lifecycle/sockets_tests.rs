//! Tests of `sockets`: real sockets in a temporary directory and on port 0. Must not touch: fixed ports.

use std::io::Read;
use std::process::Command;

use super::*;

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("underpass-sockets-{name}-{}", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn bind(address: &Address) -> Result<BoundListener, BindError> {
    Sockets::none().bind(address).map(|mut all| all.pop().expect("one address is one listener"))
}

/// A process that another test starts has copies of all our sockets between its fork and its exec, so that a socket just
/// dropped may live a little longer.
async fn bind_once_free(address: &Address) {
    let free = async {
        while let Err(error) = bind(address) {
            assert!(matches!(error, BindError::InUse { .. }), "{error}");
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(20), free).await.expect("the address is never free again");
}

#[tokio::test]
async fn port_zero_is_told_and_a_second_bind_is_explained() {
    let first = bind(&Address::Tcp(([127, 0, 0, 1], 0).into())).expect("a free address");
    let at = first.local_addr().expect("a bound socket");
    assert!(matches!(at, Address::Tcp(at) if at.port() != 0));
    let error = bind(&at).expect_err("the port is taken");
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    drop(first);
    bind_once_free(&at).await;
}

#[tokio::test]
async fn a_foreign_address_is_explained() {
    let error = bind(&Address::Tcp(([192, 0, 2, 1], 0).into())).expect_err("a foreign address");
    assert!(matches!(error, BindError::NotAvailable { .. }), "{error}");
}

#[tokio::test]
async fn a_unix_socket_is_for_owner_and_group() {
    let path = scratch("mode");
    let listener = bind(&Address::Unix(path.clone())).expect("a free address");
    assert_eq!(listener.local_addr().expect("a bound socket"), Address::Unix(path.clone()));
    assert_eq!(fs::metadata(&path).expect("it is there").permissions().mode() & 0o777, SOCKET_MODE);
    fs::remove_file(&path).expect("a writable temporary directory");
}

#[tokio::test]
async fn a_stale_unix_socket_is_replaced_and_a_live_one_is_not() {
    let path = scratch("stale");
    let address = Address::Unix(path.clone());
    let live = bind(&address).expect("a free address");
    let error = bind(&address).expect_err("the socket is taken");
    assert!(matches!(error, BindError::InUse { .. }), "{error}");
    drop(live);
    bind_once_free(&address).await;
    fs::remove_file(&path).expect("a writable temporary directory");
}

#[tokio::test]
async fn a_file_in_the_way_is_left_alone() {
    let path = scratch("file");
    fs::write(&path, "precious").expect("a writable temporary directory");
    let error = bind(&Address::Unix(path.clone())).expect_err("a file is in the way");
    assert!(matches!(error, BindError::NotASocket { .. }), "{error}");
    assert_eq!(fs::read(&path).expect("a readable file"), b"precious");
    fs::remove_file(&path).expect("a writable temporary directory");
}

#[tokio::test]
async fn a_missing_directory_is_explained() {
    let error = bind(&Address::Unix("/nonexistent/underpass.sock".into())).expect_err("no such directory");
    assert!(error.to_string().contains("unix:/nonexistent/underpass.sock"), "{error}");
}

#[tokio::test]
async fn an_unknown_name_lists_the_known_ones() {
    let mut sockets = Sockets { passed: vec![("http".into(), 0)], fds: Some(ListenFd::empty()) };
    let error = sockets.bind(&Address::Activated("https".into())).expect_err("no such socket was passed");
    assert!(error.to_string().contains("`https`") && error.to_string().contains("passed: http)"), "{error}");
    assert_eq!(sockets.untaken().collect::<Vec<_>>(), ["http"]);
}

/// Run under `systemd-socket-activate` by [`a_passed_socket_is_taken_by_name`].
#[test]
fn child_serves_a_passed_socket() {
    if std::env::var_os("UNDERPASS_SOCKETS_CHILD").is_none() {
        return;
    }
    let mut sockets = Sockets::from_env().expect("sockets as systemd passes them");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listeners = sockets.bind(&Address::Activated("front".into())).expect("a socket of this name");
        let [BoundListener::Unix(listener)] = listeners.as_slice() else { panic!("{listeners:?}") };
        assert_eq!(sockets.untaken().count(), 0);
        let (stream, _) = listener.accept().await.expect("a connection");
        stream.writable().await.expect("a live connection");
        stream.try_write(b"taken").expect("the other end reads");
    });
}

#[test]
fn a_passed_socket_is_taken_by_name() {
    let path = scratch("passed");
    let child = Command::new("systemd-socket-activate")
        .args(["--fdname=front", "-E", "UNDERPASS_SOCKETS_CHILD=1", "-l"])
        .arg(&path)
        .arg(std::env::current_exe().expect("a running program has a file"))
        .args(["--exact", "lifecycle::sockets::tests::child_serves_a_passed_socket"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: systemd-socket-activate is not installed");
        return;
    };
    // The helper has no way to say that it listens; the connect is the event, so it is tried until it succeeds.
    let mut stream = loop {
        match UnixStream::connect(&path) {
            Ok(stream) => break stream,
            Err(_) if child.try_wait().expect("a child of ours").is_none() => std::thread::yield_now(),
            Err(error) => panic!("the helper went away: {error}"),
        }
    };
    let mut heard = [0; 5];
    let got = stream.read_exact(&mut heard);
    let status = child.wait().expect("a child of ours");
    let _ = fs::remove_file(&path);
    got.expect("the child took the socket");
    assert_eq!(&heard, b"taken");
    assert!(status.success());
}
