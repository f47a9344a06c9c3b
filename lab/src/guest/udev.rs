//! This machine's udev: the product's rules, as the package installs them, and the masks that its daemon makes.

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use san_core::Wwid;

use super::check::Failure;
use super::tools;

const RULES: [(&str, &str); 2] = [
    ("/etc/udev/rules.d/55-sanbridge.rules", include_str!("../../../host/udev/55-sanbridge.rules")),
    ("/etc/udev/rules.d/57-sanbridge.rules", include_str!("../../../host/udev/57-sanbridge.rules")),
];
/// Where the product puts its masks.
const MASKS: &str = "/etc/sanbridge/masked";
const PATIENCE: Duration = Duration::from_secs(60);

/// Installs the rules.
///
/// # Errors
/// Where they cannot be written, or udev does not read them.
pub async fn install_rules() -> Result<(), Failure> {
    for (place, text) in RULES {
        fs::create_dir_all(Path::new(place).parent().unwrap_or(Path::new("/")))?;
        fs::write(place, text)?;
    }
    reload().await
}

/// Takes the rules away.
///
/// # Errors
/// Where they cannot be removed, or udev does not notice.
pub async fn remove_rules() -> Result<(), Failure> {
    for (place, _) in RULES {
        absent_is_well(fs::remove_file(place))?;
    }
    reload().await
}

/// Takes only the rule away that saves programs.
///
/// # Errors
/// Where it cannot be removed, or udev does not notice.
pub async fn remove_saving_rule() -> Result<(), Failure> {
    absent_is_well(fs::remove_file(RULES[0].0))?;
    reload().await
}

async fn reload() -> Result<(), Failure> {
    tools::run("udevadm", &["control", "--reload"], PATIENCE).await.map(drop)
}

/// Masks a disk as the product does before it attaches one.
///
/// # Errors
/// Where the masks cannot be made.
pub fn mask(wwid: &Wwid) -> Result<(), Failure> {
    fs::create_dir_all(MASKS)?;
    for (name, text) in san_engine::masks(wwid) {
        fs::write(Path::new(MASKS).join(name), text)?;
    }
    Ok(())
}

/// Takes every mask away.
///
/// # Errors
/// Where one cannot be removed.
pub fn unmask_all() -> Result<(), Failure> {
    absent_is_well(fs::remove_dir_all(MASKS))
}

fn absent_is_well(removed: std::io::Result<()>) -> Result<(), Failure> {
    match removed {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
