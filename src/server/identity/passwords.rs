//! Passwords: how they are hashed, how they are checked, and how many of that at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use argon2::{Algorithm, Argon2, Params, Version};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use serde_json::json;
use subtle::ConstantTimeEq;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use super::limiter::BUSY_FOR;
use super::tokens;
use crate::protocol::ErrorCode;
use crate::server::access::Secret;
use crate::server::config::Argon2Config;
use crate::server::handlers::Failure;

/// The longest password, in bytes.
pub(crate) const PASSWORD_BYTES_MAX: usize = 1024;
const SALT_BYTES: usize = 16;
const TAG_BYTES: usize = 32;
/// The least that a stored tag may have: a short one is guessed soon, an empty one fits every password.
const TAG_BYTES_MIN: usize = 16;
const TAG_BYTES_MAX: usize = 128;
/// What all passwords that are being checked may take together.
const MEMORY_KIB: u32 = 1 << 20;
/// How many may wait to be checked.
const WAITING_MAX: usize = 64;

/// Whether a new password is long enough and not too long.
///
/// # Errors
/// What the client is told.
pub(crate) fn check_new(password: &str, min_length: usize) -> Result<(), Failure> {
    if password.chars().count() < min_length {
        return Err(Failure::validation(format!("Password must be at least {min_length} characters")));
    }
    check_length(password)
}

/// Whether a password is not too long to be looked at.
///
/// # Errors
/// What the client is told.
pub(crate) fn check_length(password: &str) -> Result<(), Failure> {
    if password.len() > PASSWORD_BYTES_MAX {
        return Err(Failure::validation(format!("Password must be at most {PASSWORD_BYTES_MAX} bytes")));
    }
    Ok(())
}

/// What became of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is the password.
    Right {
        /// Whether it ought to be hashed anew: by what is configured now.
        is_outdated: bool,
    },
    Wrong,
}

/// A stored hash, taken apart.
#[derive(Debug, PartialEq)]
enum Stored {
    Argon2 {
        config: Argon2Config,
        salt: Vec<u8>,
        tag: Vec<u8>,
    },
    /// As the reference server has stored it.
    Scrypt {
        log_n: u8,
        r: u32,
        p: u32,
        salt: Vec<u8>,
        tag: Vec<u8>,
    },
}

impl Stored {
    fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split('$').collect();
        let stored = match parts.as_slice() {
            ["", "argon2id", "v=19", costs, salt, tag] => Self::Argon2 {
                config: costs_of(costs)?,
                salt: STANDARD_NO_PAD.decode(salt).ok()?,
                tag: STANDARD_NO_PAD.decode(tag).ok()?,
            },
            ["", "scrypt", n, r, p, salt, tag] => {
                let (n, r, p): (u32, u32, u32) = (n.parse().ok()?, r.parse().ok()?, p.parse().ok()?);
                // At most 64 MiB, and a few times the work of what the reference server makes.
                let is_bounded = n.is_power_of_two() && (2..=1 << 17).contains(&n) && (1..=16).contains(&r) && (1..=16).contains(&p);
                if !is_bounded || u64::from(n) * u64::from(r) > 1 << 19 || u64::from(n) * u64::from(r) * u64::from(p) > 1 << 21 {
                    return None;
                }
                Self::Scrypt {
                    log_n: n.trailing_zeros().try_into().ok()?,
                    r,
                    p,
                    salt: STANDARD.decode(salt).ok()?,
                    tag: STANDARD.decode(tag).ok()?,
                }
            }
            _ => return None,
        };
        let (salt, tag) = match &stored {
            Self::Argon2 { salt, tag, .. } | Self::Scrypt { salt, tag, .. } => (salt, tag),
        };
        ((8..=64).contains(&salt.len()) && (TAG_BYTES_MIN..=TAG_BYTES_MAX).contains(&tag.len())).then_some(stored)
    }

    fn fits(&self, password: &Secret) -> bool {
        let (Self::Argon2 { tag, .. } | Self::Scrypt { tag, .. }) = self;
        let mut derived = Zeroizing::new(vec![0; tag.len()]);
        let password = password.expose().as_bytes();
        let is_derived = match self {
            Self::Argon2 { config, salt, .. } => derive(*config, password, salt, &mut derived),
            Self::Scrypt { log_n, r, p, salt, .. } => scrypt::Params::new(*log_n, *r, *p)
                .ok()
                .and_then(|params| scrypt::scrypt(password, salt, &params, &mut derived).ok())
                .is_some(),
        };
        is_derived && bool::from(derived.as_slice().ct_eq(tag))
    }
}

/// Whether a stored hash is one that some password could fit.
pub(super) fn is_sound(hash: &Secret) -> bool {
    Stored::parse(hash.expose()).is_some()
}

/// `m=…,t=…,p=…`, within bounds that a login can bear.
fn costs_of(text: &str) -> Option<Argon2Config> {
    let (memory, rest) = text.strip_prefix("m=")?.split_once(",t=")?;
    let (passes, lanes) = rest.split_once(",p=")?;
    let config = Argon2Config {
        memory_kib: memory.parse().ok()?,
        passes: passes.parse().ok()?,
        lanes: lanes.parse().ok()?,
    };
    let is_bounded = config.memory_kib <= 4 << 20 && (1..=100).contains(&config.passes) && (1..=16).contains(&config.lanes);
    is_bounded.then_some(config)
}

/// Whether it could be derived.
fn derive(config: Argon2Config, password: &[u8], salt: &[u8], out: &mut [u8]) -> bool {
    #[cfg(test)]
    tests::DERIVED.with_borrow_mut(|derived| derived.push(config));
    let params = Params::new(config.memory_kib, config.passes, config.lanes, Some(out.len()));
    let derived =
        params.and_then(|params| Argon2::new(Algorithm::Argon2id, Version::V0x13, params).hash_password_into(password, salt, out));
    if let Err(error) = &derived {
        tracing::error!(%error, "a password could not be hashed");
    }
    derived.is_ok()
}

/// What a password is found to be. The work is done whoever it is for.
fn look_at(config: Argon2Config, password: &Secret, hash: Option<&Secret>, nobodys: &Secret) -> Verdict {
    let stored = hash.and_then(|hash| Stored::parse(hash.expose()));
    if hash.is_some() && stored.is_none() {
        tracing::error!("a stored password hash makes no sense and fits nothing");
    }
    let is_sound = stored.is_some();
    let Some(stored) = stored.or_else(|| Stored::parse(nobodys.expose())) else {
        return Verdict::Wrong;
    };
    if !(stored.fits(password) && is_sound) {
        return Verdict::Wrong;
    }
    let is_outdated = match stored {
        Stored::Argon2 { config: of_hash, .. } => of_hash != config,
        Stored::Scrypt { .. } => true,
    };
    Verdict::Right { is_outdated }
}

/// Hashes and checks passwords, on threads of their own, as many at once as cores and memory allow.
pub(crate) struct Passwords {
    config: Argon2Config,
    /// What the password of an unknown user is checked against: as much work, and never right.
    nobodys: Secret,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    waiting_max: usize,
}

impl Passwords {
    /// # Errors
    /// Where the system has no randomness to give.
    pub(crate) fn new(config: Argon2Config) -> Result<Self, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let by_memory = usize::try_from(MEMORY_KIB / config.memory_kib.max(1)).unwrap_or(1);
        let (mut salt, mut tag) = ([0; SALT_BYTES], [0; TAG_BYTES]);
        tokens::fill(&mut salt)?;
        tokens::fill(&mut tag)?;
        Ok(Self {
            config,
            nobodys: phc(config, &salt, &tag),
            places: Arc::new(Semaphore::new(cores.min(by_memory).max(1))),
            waiting: AtomicUsize::new(0),
            waiting_max: WAITING_MAX,
        })
    }

    /// The hash of a new password.
    ///
    /// # Errors
    /// Where too many wait already.
    pub(crate) async fn hash(&self, password: Secret) -> Result<Secret, Failure> {
        let config = self.config;
        self.run(move || {
            let mut salt = [0; SALT_BYTES];
            tokens::fill(&mut salt)?;
            let mut tag = Zeroizing::new([0; TAG_BYTES]);
            if derive(config, password.expose().as_bytes(), &salt, tag.as_mut_slice()) {
                Ok(phc(config, &salt, tag.as_slice()))
            } else {
                Err(Failure::internal())
            }
        })
        .await?
    }

    /// Whether a password is the one that a hash was made of. Without a hash it takes as long, and is wrong.
    ///
    /// # Errors
    /// Where too many wait already.
    pub(crate) async fn verify(&self, password: Secret, hash: Option<Secret>) -> Result<Verdict, Failure> {
        let (config, nobodys) = (self.config, self.nobodys.clone());
        self.run(move || look_at(config, &password, hash.as_ref(), &nobodys)).await
    }

    async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Failure> {
        let _place_in_line = self.line_up()?;
        let Ok(permit) = Arc::clone(&self.places).acquire_owned().await else {
            return Err(Failure::internal());
        };
        let work = move || {
            // Kept by the work itself: it goes on also where nobody waits for it any more.
            let _permit = permit;
            work()
        };
        tokio::task::spawn_blocking(work).await.map_err(|error| {
            tracing::error!(%error, "a password could not be worked on");
            Failure::internal()
        })
    }

    fn line_up(&self) -> Result<PlaceInLine<'_>, Failure> {
        let place = PlaceInLine(&self.waiting);
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= self.waiting_max {
            let wait = crate::server::millis(BUSY_FOR);
            return Err(
                Failure::new(ErrorCode::Backpressure, "Too many logins are being checked. Try again later.")
                    .with_details(json!({ "retryAfterMs": wait })),
            );
        }
        Ok(place)
    }
}

struct PlaceInLine<'p>(&'p AtomicUsize);

impl Drop for PlaceInLine<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn phc(config: Argon2Config, salt: &[u8], tag: &[u8]) -> Secret {
    let Argon2Config { memory_kib, passes, lanes } = config;
    Secret::from(format!(
        "$argon2id$v=19$m={memory_kib},t={passes},p={lanes}${}${}",
        STANDARD_NO_PAD.encode(salt),
        STANDARD_NO_PAD.encode(tag)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        /// The work that was done on this thread.
        pub(super) static DERIVED: std::cell::RefCell<Vec<Argon2Config>> = const { std::cell::RefCell::new(Vec::new()) };
    }

    #[test]
    fn unknown_users_and_senseless_hashes_cost_the_same_work_as_known_ones() {
        let passwords = Passwords::new(FLOOR).expect("there is randomness");
        let mut tag = [0; TAG_BYTES];
        assert!(derive(FLOOR, b"correct horse", &[7; SALT_BYTES], &mut tag));
        let hash = phc(FLOOR, &[7; SALT_BYTES], &tag);
        let senseless = Secret::from("$argon2id$");
        DERIVED.take();
        for (hash, password, is_right) in [
            (Some(&hash), "correct horse", true),
            (Some(&hash), "another one", false),
            (Some(&senseless), "correct horse", false),
            (None, "correct horse", false),
        ] {
            let verdict = look_at(FLOOR, &password.into(), hash, &passwords.nobodys);
            assert_eq!(verdict != Verdict::Wrong, is_right, "{hash:?} {password}");
            assert_eq!(DERIVED.take(), [FLOOR], "{hash:?} {password}");
        }
    }

    const FLOOR: Argon2Config = Argon2Config {
        memory_kib: 19_456,
        passes: 2,
        lanes: 1,
    };

    async fn verdict(passwords: &Passwords, password: &str, hash: &str) -> Verdict {
        passwords.verify(password.into(), Some(hash.into())).await.expect("there is room")
    }

    #[tokio::test]
    async fn a_password_fits_its_own_hash_alone() {
        let passwords = Passwords::new(FLOOR).expect("there is randomness");
        let hash = passwords.hash("correct horse".into()).await.expect("there is room");
        let other = passwords.hash("correct horse".into()).await.expect("there is room");
        assert_ne!(hash, other, "salted");
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
        assert_eq!(
            verdict(&passwords, "correct horse", hash.expose()).await,
            Verdict::Right { is_outdated: false }
        );
        assert_eq!(verdict(&passwords, "correct horsE", hash.expose()).await, Verdict::Wrong);
        assert_eq!(verdict(&passwords, "", hash.expose()).await, Verdict::Wrong);
        let nobody = passwords.verify("correct horse".into(), None).await;
        assert_eq!(nobody, Ok(Verdict::Wrong));
        let raised = Passwords::new(Argon2Config { passes: 3, ..FLOOR }).expect("there is randomness");
        assert_eq!(
            verdict(&raised, "correct horse", hash.expose()).await,
            Verdict::Right { is_outdated: true }
        );
    }

    #[tokio::test]
    async fn hashes_of_the_reference_server_fit_and_are_outdated() {
        let passwords = Passwords::new(FLOOR).expect("there is randomness");
        let hash = "$scrypt$16384$8$1$AAECAwQFBgcICQoLDA0ODw==$JbN2hANm9NOw4h5BRHZnbjzQ6Jr0QwNWojTOC2WgIbViM+ewsk8HvJNAGV8ZyQodp1YlFO0HYqba48J/9bB9Yg==";
        assert_eq!(
            verdict(&passwords, "correct horse", hash).await,
            Verdict::Right { is_outdated: true }
        );
        assert_eq!(verdict(&passwords, "correct horsf", hash).await, Verdict::Wrong);
    }

    #[test]
    fn hashes_that_fit_too_much_or_cost_too_much_make_no_sense() {
        let salt = "AAECAwQFBgcICQoLDA0ODw==";
        for hash in [
            String::new(),
            "plain".to_owned(),
            format!("$scrypt$16384$8$1${salt}$"),
            format!("$scrypt$16384$8$1${salt}$AAECAwQFBgcICQoLDA0O"),
            format!("$scrypt$16383$8$1${salt}${salt}"),
            format!("$scrypt$1073741824$8$1${salt}${salt}"),
            format!("$scrypt$131072$16$1${salt}${salt}"),
            format!("$scrypt$16384$8$4000000${salt}${salt}"),
            format!("$scrypt$0$8$1${salt}${salt}"),
            format!("$bcrypt$16384$8$1${salt}${salt}"),
            "$argon2id$v=19$m=99999999,t=3,p=1$AAECAwQFBgcICQoLDA0ODw$AAECAwQFBgcICQoLDA0ODw".to_owned(),
            "$argon2id$v=19$m=65536,t=3000,p=1$AAECAwQFBgcICQoLDA0ODw$AAECAwQFBgcICQoLDA0ODw".to_owned(),
            "$argon2id$v=19$m=65536,t=3,p=1$AAECAwQFBgcICQoLDA0ODw$".to_owned(),
            "$argon2i$v=19$m=65536,t=3,p=1$AAECAwQFBgcICQoLDA0ODw$AAECAwQFBgcICQoLDA0ODw".to_owned(),
        ] {
            assert_eq!(Stored::parse(&hash), None, "{hash}");
        }
    }

    #[tokio::test]
    async fn only_so_many_wait() {
        let passwords = Passwords::new(FLOOR).expect("there is randomness");
        let line: Vec<_> = (0..WAITING_MAX).map(|_| passwords.line_up()).collect();
        let refusal = passwords.verify("x".into(), None).await.expect_err("nobody else gets in");
        assert_eq!(refusal.code(), ErrorCode::Backpressure);
        drop(line);
        assert_eq!(passwords.verify("x".into(), None).await, Ok(Verdict::Wrong));
    }

    #[test]
    fn new_passwords_are_neither_too_short_nor_too_long() {
        assert_eq!(
            check_new("1234567", 8).unwrap_err().message(),
            "Password must be at least 8 characters"
        );
        assert!(check_new("ŽŽŽŽŽŽŽ", 8).is_err());
        assert!(check_new("😀😀😀😀", 8).is_err());
        assert!(check_new("ŽŽŽŽŽŽŽŽ", 8).is_ok());
        assert!(check_new(&"x".repeat(1024), 8).is_ok());
        assert!(check_new(&"x".repeat(1025), 8).is_err());
    }
}
