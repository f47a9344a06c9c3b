//! How the image of the guest is made: Debian's packages, the few kernel modules it needs, and our own files. Debian's
//! tools do it in about a minute, without mounts or loop devices. This file is part of the image's hash.

use std::fs::{self, File};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::archive::Archive;
use super::modules::{Modules, names};
use super::tools::{Trouble, about, apart, command, finish, finish_family, run, say};

/// The base of Proxmox VE 9.
const SUITE: &str = "trixie";

/// Builds an image into a folder: `vmlinuz`, `initramfs` and `root.img`. What it is built from stays in `work`.
///
/// # Errors
/// Where it cannot be built.
pub(super) async fn build(guest: &Path, to: &Path, mirror: Option<&str>) -> Result<(), Trouble> {
    let work = to.join("work");
    let root = work.join("root");
    fs::create_dir(&work).map_err(about(&work))?;
    install_packages(guest, &root, mirror).await?;
    let kernel = unpack_kernel(&root, &work.join("kernel")).await?;
    fs::copy(kernel.folder.join("boot").join(format!("vmlinuz-{}", kernel.release)), to.join("vmlinuz"))
        .map_err(about(&kernel.folder))?;
    let modules = kernel.modules(&guest.join("modules.txt"))?;
    kernel.install(&modules, &root).await?;
    own_files(guest, &root).await?;
    let modules = kernel.modules(&guest.join("modules-boot.txt"))?;
    let boot = Boot { init: guest.join("boot-init"), busybox: root.join("usr/bin/busybox") };
    boot.pack(&kernel, &modules, &to.join("initramfs")).await?;
    root_image(&root, &to.join("root.img")).await
}

/// Where this computer's own apt takes Debian's packages from.
async fn own_mirror() -> Option<String> {
    let format = "$(ORIGIN) $(COMPONENT) $(CODENAME) $(SITE)/ $(REPO_URI)";
    let listed = run("apt-get", ["indextargets", "--format", format]).await.ok()?;
    let listed = String::from_utf8_lossy(&listed).into_owned();
    let mirrors = listed.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        let (origin, component, codename) = (words.next()?, words.next()?, words.next()?);
        let uri = words.next_back()?;
        let is_main = origin == "Debian" && component == "main" && !codename.contains('-');
        is_main.then(|| uri.to_owned())
    });
    mirrors.into_iter().next()
}

/// From the mirror asked for; else from mmdebstrap's own; else from that of this computer's apt.
async fn install_packages(guest: &Path, root: &Path, mirror: Option<&str>) -> Result<(), Trouble> {
    let first = bootstrap(guest, root, mirror).await;
    let Err(trouble) = first else { return Ok(()) };
    let own = own_mirror().await.filter(|_| mirror.is_none());
    let lacking = |it: &Trouble| Trouble::lacking(format!("the guest's packages cannot be had: {it}"));
    let Some(own) = own else { return Err(lacking(&trouble)) };
    say(&format!("{trouble}\nlab: trying {own}"));
    if root.is_dir() {
        fs::remove_dir_all(root).map_err(about(root))?;
    }
    bootstrap(guest, root, Some(&own)).await.map_err(|it| lacking(&it))
}

async fn bootstrap(guest: &Path, root: &Path, mirror: Option<&str>) -> Result<(), Trouble> {
    let list = guest.join("packages.txt");
    let list = fs::read_to_string(&list).map_err(about(&list))?;
    let mut bootstrap = apart("mmdebstrap").await;
    bootstrap.args(["--mode=root", "--variant=essential", "--quiet", "--architectures=amd64"]);
    bootstrap.arg(r#"--aptopt=APT::Install-Recommends "false""#);
    for folder in ["man", "doc", "locale", "info"] {
        bootstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{folder}/*"));
    }
    bootstrap.arg("--dpkgopt=force-unsafe-io");
    bootstrap.arg(format!("--include={}", names(&list).join(",")));
    bootstrap.arg(format!("--customize-hook={}", guest.join("fetch-kernel").display()));
    bootstrap.arg(SUITE).arg(root).args(mirror);
    finish_family(&mut bootstrap).await?;
    Ok(())
}

/// An unpacked kernel package.
#[derive(Debug)]
struct Kernel {
    folder: PathBuf,
    release: String,
}

/// Takes the kernel's package out of the root that it was downloaded to, and apart.
async fn unpack_kernel(root: &Path, to: &Path) -> Result<Kernel, Trouble> {
    let entries = fs::read_dir(root).map_err(about(root))?;
    let is_package = |it: &PathBuf| it.extension().is_some_and(|it| it == "deb");
    let package = entries.flatten().map(|it| it.path()).find(is_package);
    let package = package.ok_or_else(|| Trouble::fault("the kernel's package was not downloaded"))?;
    run("dpkg-deb", [Path::new("-x"), &package, to]).await?;
    fs::remove_file(&package).map_err(about(&package))?;
    // Some releases of the tools look below /lib only, some of the packages have only /usr/lib.
    if !to.join("lib").is_dir() {
        std::os::unix::fs::symlink("usr/lib", to.join("lib")).map_err(about(to))?;
    }
    let modules = to.join("lib/modules");
    let release = fs::read_dir(&modules).map_err(about(&modules))?.flatten().next();
    let release = release.ok_or_else(|| Trouble::fault("the kernel's package has no modules"))?;
    let kernel =
        Kernel { folder: to.to_owned(), release: release.file_name().to_string_lossy().into_owned() };
    run("depmod", [Path::new("-b"), to, Path::new(&kernel.release)]).await?;
    Ok(kernel)
}

impl Kernel {
    fn modules_folder(&self) -> PathBuf {
        self.folder.join("lib/modules").join(&self.release)
    }

    /// The files of the modules in a list, with what they need, in loading order.
    fn modules(&self, list: &Path) -> Result<Vec<String>, Trouble> {
        let read = |path: PathBuf| fs::read_to_string(&path).map_err(about(&path));
        let folder = self.modules_folder();
        let modules =
            Modules::new(&read(folder.join("modules.dep"))?, &read(folder.join("modules.builtin"))?);
        let list_text = read(list.to_owned())?;
        modules.closure(&names(&list_text)).map_err(|unknown| {
            Trouble::fault(format!(
                "{}: not in kernel {}: {}",
                list.display(),
                self.release,
                unknown.join(" ")
            ))
        })
    }

    async fn install(&self, modules: &[String], root: &Path) -> Result<(), Trouble> {
        let from = self.modules_folder();
        let to = root.join("usr/lib/modules").join(&self.release);
        let lists = ["modules.builtin", "modules.builtin.modinfo", "modules.order"].map(str::to_owned);
        for path in lists.iter().chain(modules) {
            let target = to.join(path);
            fs::create_dir_all(target.parent().unwrap_or(&to)).map_err(about(&target))?;
            fs::copy(from.join(path), &target).map_err(about(&target))?;
        }
        run("depmod", [Path::new("-b"), root, Path::new(&self.release)]).await?;
        Ok(())
    }
}

async fn own_files(guest: &Path, root: &Path) -> Result<(), Trouble> {
    let copied = [Path::new("-a"), Path::new("--no-preserve=ownership"), &guest.join("root/."), root];
    run("cp", copied).await?;
    // Absent, or a file of the host's mounts.
    let mounts = root.join("etc/mtab");
    let _ = fs::remove_file(&mounts);
    std::os::unix::fs::symlink("/proc/self/mounts", &mounts).map_err(about(&mounts))?;
    let share = root.join("lab/share");
    fs::create_dir_all(&share).map_err(about(&share))?;
    for lists in ["var/lib/apt/lists", "var/cache/apt"] {
        let folder = root.join(lists);
        fs::remove_dir_all(&folder).map_err(about(&folder))?;
        fs::create_dir(&folder).map_err(about(&folder))?;
    }
    Ok(())
}

async fn root_image(root: &Path, to: &Path) -> Result<(), Trouble> {
    let used = run("du", [Path::new("-sm"), root]).await?;
    let used = String::from_utf8_lossy(&used);
    let used: u64 = used.split_whitespace().next().and_then(|it| it.parse().ok()).unwrap_or(1024);
    // Nothing is ever written to it: room for the file system's own needs is enough.
    let size = format!("{}M", used * 6 / 5 + 32);
    let mut make = command("mke2fs");
    make.args(["-q", "-t", "ext4", "-O", "^has_journal,^metadata_csum", "-m", "0", "-d"]);
    finish(make.arg(root).arg(to).arg(size)).await?;
    Ok(())
}

/// What goes into the first file system beside modules.
struct Boot {
    init: PathBuf,
    busybox: PathBuf,
}

impl Boot {
    async fn pack(&self, kernel: &Kernel, modules: &[String], to: &Path) -> Result<(), Trouble> {
        let file = File::create(to).map_err(about(to))?;
        file.set_permissions(fs::Permissions::from_mode(0o644)).map_err(about(to))?;
        let mut archive = Archive::new(BufWriter::new(file));
        for folder in ["bin", "proc", "sys", "dev", "modules", "new", "lower", "upper"] {
            archive.folder(folder).map_err(about(to))?;
        }
        for (path, from) in [("init", &self.init), ("bin/busybox", &self.busybox)] {
            let content = fs::read(from).map_err(about(from))?;
            archive.program(path, &content).map_err(about(to))?;
        }
        let mut order = String::new();
        for module in modules {
            let content = unpacked(&kernel.modules_folder().join(module)).await?;
            let file = module.rsplit('/').next().unwrap_or(module);
            let file = file.strip_suffix(".xz").or_else(|| file.strip_suffix(".zst")).unwrap_or(file);
            archive.program(&format!("modules/{file}"), &content).map_err(about(to))?;
            order.push_str(file);
            order.push('\n');
        }
        archive.program("modules/order", order.as_bytes()).map_err(about(to))?;
        archive.finish().map_err(about(to))
    }
}

/// The content of a module's file. Busybox loads only what is not compressed.
async fn unpacked(path: &Path) -> Result<Vec<u8>, Trouble> {
    match path.extension().and_then(|it| it.to_str()) {
        Some("xz") => run("xz", [Path::new("-dc"), path]).await,
        Some("zst") => run("zstd", [Path::new("-dcq"), path]).await,
        _ => fs::read(path).map_err(about(path)),
    }
}
