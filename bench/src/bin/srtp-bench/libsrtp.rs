//! libsrtp 2, by hand: the few functions that protect and unprotect RTP (`srtp.h` of Debian's `libsrtp2-dev`). Only for
//! comparison, only with the feature `libsrtp`.

use crate::suite::Suite;
use anyhow::{Result, ensure};
use std::ffi::{c_int, c_uint, c_ulong, c_void};
use std::sync::Once;

/// What libsrtp adds to a packet at most (`SRTP_MAX_TRAILER_LEN`: tag and MKI). Buffers must have room for it.
pub const TRAILER_BYTES_MAX: usize = 16 + 128;

/// A session in one direction.
pub struct Session(*mut c_void);

impl Session {
    /// With a master key and the salt after it, for sending or for receiving.
    pub fn new(suite: Suite, key_and_salt: &[u8], sends: bool) -> Result<Session> {
        static INIT: Once = Once::new();
        // SAFETY: once, before any other call.
        INIT.call_once(|| unsafe {
            srtp_init();
        });
        let mut key = key_and_salt.to_vec();
        let mut policy = Policy {
            // ssrc_any_outbound or ssrc_any_inbound.
            ssrc_type: if sends { 3 } else { 2 },
            ssrc: 0,
            rtp: CryptoPolicy::default(),
            rtcp: CryptoPolicy::default(),
            key: key.as_mut_ptr(),
            keys: std::ptr::null_mut(),
            num_master_keys: 0,
            deprecated_ekt: std::ptr::null_mut(),
            window_size: 128,
            allow_repeat_tx: 0,
            enc_xtn_hdr: std::ptr::null_mut(),
            enc_xtn_hdr_count: 0,
            next: std::ptr::null_mut(),
        };
        let set = match suite {
            Suite::AesCm128 => srtp_crypto_policy_set_rtp_default,
            Suite::AesCm256 => srtp_crypto_policy_set_aes_cm_256_hmac_sha1_80,
            Suite::Gcm128 => srtp_crypto_policy_set_aes_gcm_128_16_auth,
            Suite::Gcm256 => srtp_crypto_policy_set_aes_gcm_256_16_auth,
        };
        let mut session = std::ptr::null_mut();
        // SAFETY: both policies are of libsrtp's layout and live; the policy and its key live until `srtp_create` returns,
        // which copies what it needs of them.
        let status = unsafe {
            set(&mut policy.rtp);
            set(&mut policy.rtcp);
            srtp_create(&mut session, &policy)
        };
        ensure!(status == 0, "srtp_create: {status}");
        Ok(Session(session))
    }

    /// Protects the packet of `length` bytes at the start of `buffer`, and returns its new length.
    pub fn protect(&mut self, buffer: &mut [u8], length: usize) -> Result<usize> {
        ensure!(length + TRAILER_BYTES_MAX <= buffer.len(), "no room for the trailer");
        let mut bytes = c_int::try_from(length)?;
        // SAFETY: the session lives; the packet has room for the longest trailer.
        let status = unsafe { srtp_protect(self.0, buffer.as_mut_ptr().cast(), &mut bytes) };
        ensure!(status == 0, "srtp_protect: {status}");
        Ok(usize::try_from(bytes)?)
    }

    /// Unprotects the packet in `packet`, and returns its new length.
    pub fn unprotect(&mut self, packet: &mut [u8]) -> Result<usize> {
        let mut bytes = c_int::try_from(packet.len())?;
        // SAFETY: the session lives; unprotecting writes only within the packet.
        let status = unsafe { srtp_unprotect(self.0, packet.as_mut_ptr().cast(), &mut bytes) };
        ensure!(status == 0, "srtp_unprotect: {status}");
        Ok(usize::try_from(bytes)?)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        // SAFETY: created by `srtp_create`, and not used after this.
        unsafe {
            srtp_dealloc(self.0);
        }
    }
}

/// `srtp_crypto_policy_t`.
#[repr(C)]
#[derive(Default)]
struct CryptoPolicy {
    cipher_type: u32,
    cipher_key_len: c_int,
    auth_type: u32,
    auth_key_len: c_int,
    auth_tag_len: c_int,
    sec_serv: c_int,
}

/// `srtp_policy_t`.
#[repr(C)]
struct Policy {
    ssrc_type: c_uint,
    ssrc: c_uint,
    rtp: CryptoPolicy,
    rtcp: CryptoPolicy,
    key: *mut u8,
    keys: *mut *mut c_void,
    num_master_keys: c_ulong,
    deprecated_ekt: *mut c_void,
    window_size: c_ulong,
    allow_repeat_tx: c_int,
    enc_xtn_hdr: *mut c_int,
    enc_xtn_hdr_count: c_int,
    next: *mut Policy,
}

#[link(name = "srtp2")]
unsafe extern "C" {
    fn srtp_init() -> c_int;
    fn srtp_create(session: *mut *mut c_void, policy: *const Policy) -> c_int;
    fn srtp_dealloc(session: *mut c_void) -> c_int;
    fn srtp_protect(session: *mut c_void, packet: *mut c_void, bytes: *mut c_int) -> c_int;
    fn srtp_unprotect(session: *mut c_void, packet: *mut c_void, bytes: *mut c_int) -> c_int;
    fn srtp_crypto_policy_set_rtp_default(policy: *mut CryptoPolicy);
    fn srtp_crypto_policy_set_aes_cm_256_hmac_sha1_80(policy: *mut CryptoPolicy);
    fn srtp_crypto_policy_set_aes_gcm_128_16_auth(policy: *mut CryptoPolicy);
    fn srtp_crypto_policy_set_aes_gcm_256_16_auth(policy: *mut CryptoPolicy);
}
