package PVE::Storage::Custom::SanbridgePlugin;

# The storage type `sanbridge` of Proxmox VE: names, paths and schema here, everything else asked of the node's daemon
# (PROTOCOL.md), one request per method.
#
# A plugin that does not load makes PVE drop its storages from storage.cfg at the next write. So loading needs core Perl
# and the base class only; the client is loaded at the first request. Loading, `parse_volname` and `path` also
# run unprivileged (pveproxy) and ask nobody.
#
# What of the base class is not overridden, and why that is safe (it works on files elsewhere):
#   private, sensitive_properties, storage_has_feature, ...    registration and schema, no volume
#   parse_config, check_config, encode_value, decode_value     sections of storage.cfg, no volume
#   find_free_diskname, get_next_vm_diskname                   call our list_images; only for callers outside alloc_image
#   map_volume                                                 our path; the device is there since activate_volume
#   unmap_volume                                               nothing, and must do nothing: a container that runs
#                                                              goes on using the device after its resize
#   deactivate_storage                                         nothing; volumes are detached one by one
#   storage_can_replicate, new_backup_provider                 false; dies
#   get_volume_notes, update_volume_notes                      die; reached only through the attribute methods, overridden
#   get_vtype_subdirs, config_aware_base_mkdir                 a constant; called by base methods we override

use strict;
use warnings;

use base qw(PVE::Storage::Plugin);

# The newest storage API this plugin was tested with.
use constant TESTED_API => 15;

# How long what makes, removes or renames a volume may take, in seconds. Most of it is a wait where many come at once.
use constant WORK => 120;

my $VMID = qr/[1-9][0-9]{2,8}/;
my $TEXT = qr/[A-Za-z0-9_-][A-Za-z0-9._-]{0,179}/;
my $SNAPSHOT = qr/[A-Za-z][A-Za-z0-9_-]{1,63}/;
my $STOREID = qr/[A-Za-z][A-Za-z0-9._-]*[A-Za-z0-9]/;

# Always shared: PVE refuses migration and cloning between nodes for local storages of unknown types.
push @PVE::Storage::Plugin::SHARED_STORAGE, 'sanbridge'
    if !grep { $_ eq 'sanbridge' } @PVE::Storage::Plugin::SHARED_STORAGE;

# Registration and schema

sub type { return 'sanbridge' }

# No version above the host's is loaded, one below it is warned of. Asked at run time: `use PVE::Storage` here would scan
# the plugins again from within the scan.
sub api {
    my $host = PVE::Storage->can('APIVER') or return TESTED_API;
    my $version = $host->();
    return $version < TESTED_API ? $version : TESTED_API;
}

sub plugindata {
    return {
        content => [{ images => 1, rootdir => 1, none => 1 }, { images => 1 }],
        format => [{ raw => 1 }, 'raw'],
        'sensitive-properties' => {
            'sanbridge-password' => 1,
            'sanbridge-chap-password' => 1,
            'sanbridge-chap-target-password' => 1,
        },
    };
}

# Plain strings without enums or patterns: the daemon checks them, and a node with an older package keeps a value it does
# not know instead of dropping it.
sub properties {
    return {
        'sanbridge-array' => {
            description => 'Kind of array: ontap.',
            type => 'string',
        },
        'sanbridge-address' => {
            description => 'Management addresses of the array, with commas: host, host:port, [v6] or [v6]:port.',
            type => 'string',
        },
        'sanbridge-username' => {
            description => 'Account on the array.',
            type => 'string',
        },
        'sanbridge-password' => {
            description => 'Password of the account. Kept in a root-only file, never in storage.cfg.',
            type => 'string',
        },
        'sanbridge-svm' => {
            description => 'ONTAP: the storage virtual machine.',
            type => 'string',
        },
        'sanbridge-aggregate' => {
            description => 'ONTAP: the aggregate for new volumes, or several with commas between them.',
            type => 'string',
        },
        'sanbridge-provisioning' => {
            description => 'ONTAP: thin (default), or thick: the aggregate keeps room for whole volumes.',
            type => 'string',
        },
        'sanbridge-snapshot-reserve' => {
            description => 'ONTAP: percent (0 to 90) of a volume that only its snapshots use; 0.',
            type => 'string',
        },
        'sanbridge-autosize-limit' => {
            description => 'ONTAP: how far a volume grows by itself, in percent (100 to 2000) of its size; 1000.',
            type => 'string',
        },
        'sanbridge-snapshot-autodelete' => {
            description => 'ONTAP: whether the array deletes snapshots of a full volume: off (default),'
                . ' oldest-first, newest-first.',
            type => 'string',
        },
        'sanbridge-snapshot-policy' => {
            description => 'ONTAP: the policy by which the array takes snapshots of its own; none.',
            type => 'string',
        },
        'sanbridge-qos-policy' => {
            description => 'ONTAP: the QoS policy of the volumes, fixed or adaptive; none removes it.',
            type => 'string',
        },
        'sanbridge-tiering' => {
            description => 'ONTAP: what goes to the cloud tier: none, snapshot-only, auto, all.',
            type => 'string',
        },
        'sanbridge-encryption' => {
            description => 'ONTAP: as-aggregate (default), or required: volumes are encrypted.',
            type => 'string',
        },
        'sanbridge-delete' => {
            description => 'How deleted volumes go: recoverable (default) or immediate.',
            type => 'string',
        },
        'sanbridge-transport' => {
            description => 'How nodes reach the volumes: iscsi (default).',
            type => 'string',
        },
        'sanbridge-ca-file' => {
            description => 'PEM file of the CA that signed the certificate of the array.',
            type => 'string',
        },
        'sanbridge-fingerprint' => {
            description => 'SHA-256 fingerprints, with commas, of the certificates then trusted, and no others.',
            type => 'string',
        },
        'sanbridge-connect-timeout' => {
            description => 'Seconds (1 to 15) that a management address may take to accept a connection; 5.',
            type => 'string',
        },
        'sanbridge-portals' => {
            description => 'Addresses or networks, with commas, of the data interfaces of the array that are used; all.',
            type => 'string',
        },
        'sanbridge-iscsi-interfaces' => {
            description => 'Interfaces of open-iscsi, with commas, that sessions are bound to.',
            type => 'string',
        },
        'sanbridge-max-paths' => {
            description => 'Most paths (2 to 32) of one disk on a node; all there are.',
            type => 'string',
        },
        'sanbridge-all-nodes' => {
            description => '1: volumes are mapped for all nodes, so that guests start elsewhere while the array\'s management is down; 0.',
            type => 'string',
        },
        'sanbridge-login-timeout' => {
            description => 'Seconds (2 to 30) that one iSCSI login may take; 5.',
            type => 'string',
        },
        'sanbridge-chap-username' => {
            description => 'Name by which nodes prove themselves to the array (CHAP).',
            type => 'string',
        },
        'sanbridge-chap-password' => {
            description => 'Its secret, 12 to 128 characters. Kept in a root-only file, never in storage.cfg.',
            type => 'string',
        },
        'sanbridge-chap-target-username' => {
            description => 'Name by which the array proves itself to nodes (mutual CHAP).',
            type => 'string',
        },
        'sanbridge-chap-target-password' => {
            description => 'Its secret, another one. Kept in a root-only file, never in storage.cfg.',
            type => 'string',
        },
        'sanbridge-outage-wait' => {
            description => 'Seconds (30 to 3600) that a guest waits when its disk has lost every path; 150.',
            type => 'string',
        },
    };
}

sub options {
    return {
        'sanbridge-array' => { fixed => 1 },
        'sanbridge-address' => {},
        'sanbridge-username' => { optional => 1 },
        'sanbridge-password' => { optional => 1 },
        'sanbridge-svm' => { optional => 1 },
        'sanbridge-aggregate' => { optional => 1 },
        'sanbridge-provisioning' => { optional => 1 },
        'sanbridge-snapshot-reserve' => { optional => 1 },
        'sanbridge-autosize-limit' => { optional => 1 },
        'sanbridge-snapshot-autodelete' => { optional => 1 },
        'sanbridge-snapshot-policy' => { optional => 1 },
        'sanbridge-qos-policy' => { optional => 1 },
        'sanbridge-tiering' => { optional => 1 },
        'sanbridge-encryption' => { optional => 1 },
        'sanbridge-delete' => { optional => 1 },
        'sanbridge-transport' => { optional => 1, fixed => 1 },
        'sanbridge-ca-file' => { optional => 1 },
        'sanbridge-fingerprint' => { optional => 1 },
        'sanbridge-connect-timeout' => { optional => 1 },
        'sanbridge-portals' => { optional => 1 },
        'sanbridge-iscsi-interfaces' => { optional => 1 },
        'sanbridge-max-paths' => { optional => 1 },
        'sanbridge-all-nodes' => { optional => 1 },
        'sanbridge-login-timeout' => { optional => 1 },
        'sanbridge-chap-username' => { optional => 1 },
        'sanbridge-chap-password' => { optional => 1 },
        'sanbridge-chap-target-username' => { optional => 1 },
        'sanbridge-chap-target-password' => { optional => 1 },
        'sanbridge-outage-wait' => { optional => 1 },
        nodes => { optional => 1 },
        disable => { optional => 1 },
        content => { optional => 1 },
        shared => { optional => 1 },
        bwlimit => { optional => 1 },
    };
}

sub get_formats { return { default => 'raw', valid => { raw => 1 } } }

# Asking the daemon

# One request about a storage. `answer` (optional) makes the result of the daemon's checked `ok`; `otherwise` (optional)
# says what is done instead of dying, by the kind of the error; `use` (optional) is what is done with what was handed out
# before that is confirmed.
my $ask = sub {
    my ($storeid, $scfg, $method, $wait, $params, $answer, $otherwise, $use) = @_;
    require PVE::Storage::Sanbridge::Client;
    my $secret = __PACKAGE__->plugindata()->{'sensitive-properties'};
    my $options = {
        (
            map { $_ => "$scfg->{$_}" }
            grep { m/\Asanbridge-/ && !$secret->{$_} && defined($scfg->{$_}) } keys $scfg->%*
        ),
        content => [sort keys(($scfg->{content} // {})->%*)],
        disable => $scfg->{disable} ? \1 : \0,
        $scfg->{nodes} ? (nodes => [sort keys $scfg->{nodes}->%*]) : (),
    };
    return PVE::Storage::Sanbridge::Client::call(
        method => $method,
        wait => $wait,
        storage => { id => $storeid, options => $options },
        params => $params,
        answer => $answer // sub { return undef },
        otherwise => $otherwise // {},
        use => $use,
    );
};

# Checks of what the daemon says; each returns the untainted value or dies.

my $pattern = sub {
    my ($ok, $key, $re) = @_;
    my $value = $ok->{$key};
    return $1 if defined($value) && !ref($value) && $value =~ m/\A($re)\z/;
    die "bad '$key'\n";
};

my $integer = sub { return $pattern->($_[0], $_[1], qr/0|[1-9][0-9]{0,15}/) + 0 };

my $integer_or_undef = sub { return defined($_[0]->{ $_[1] }) ? $integer->(@_) : undef };

my $boolean = sub {
    my ($ok, $key) = @_;
    die "bad '$key'\n" if ref($ok->{$key}) !~ m/Boolean\z/;
    return $ok->{$key} ? 1 : 0;
};

my $line = sub { return $pattern->($_[0], $_[1], qr/[ -~]{1,1000}/) };

my $list = sub {
    my ($ok, $key) = @_;
    die "bad '$key'\n" if ref($ok->{$key}) ne 'ARRAY';
    return $ok->{$key}->@*;
};

# Whether a guest is a container.
my $is_container = sub {
    my ($vmid, $guests) = @_;
    $guests //= PVE::Cluster::get_vmlist();
    return ((($guests->{ids} // {})->{$vmid} // {})->{type} // 'qemu') eq 'lxc';
};

# Names

sub parse_volname {
    my ($class, $volname) = @_;
    if (defined($volname)) {
        return ('images', $1, $3, undef, undef, $2 eq 'base' ? 1 : undef, 'raw')
            if $volname =~ m/\A((vm|base)-($VMID)-$TEXT)\z/;
        return ('images', $3, $5, $1, $2, $4 eq 'base' ? 1 : undef, 'raw')
            if $volname =~ m!\A(base-($VMID)-$TEXT)/((vm|base)-($VMID)-$TEXT)\z!;
    }
    my $shown = defined($volname) ? $volname =~ s/[^ -~]/?/gr : '';
    die "'$shown' is no volume name of a sanbridge storage\n";
}

# The volume name as sent to the daemon, untainted.
my $volume = sub {
    my ($class, $volname) = @_;
    my ($name, $base) = ($class->parse_volname($volname))[1, 3];
    return defined($base) ? "$base/$name" : $name;
};

my $snapshot = sub {
    my ($snapname) = @_;
    return $1 if defined($snapname) && $snapname =~ m/\A($SNAPSHOT)\z/;
    my $shown = defined($snapname) ? $snapname =~ s/[^ -~]/?/gr : '';
    die "'$shown' is no snapshot name of a sanbridge storage\n";
};

my $snapshot_or_undef = sub { return defined($_[0]) && $_[0] ne '' ? $snapshot->($_[0]) : undef };

# The same on every node and whether attached or not; the daemon puts the link there.
sub path {
    my ($class, $scfg, $volname, $storeid, $snapname) = @_;
    my ($vtype, $name, $vmid) = $class->parse_volname($volname);
    my ($id) = ($storeid // '') =~ m/\A($STOREID)\z/ or die "bad storage id\n";
    my $snap = $snapshot_or_undef->($snapname);
    my $path = "/dev/sanbridge/$id/$name" . (defined($snap) ? "\@$snap" : '');
    return wantarray ? ($path, $vmid, $vtype) : $path;
}

sub filesystem_path {
    die "a sanbridge volume has no path without its storage\n";
}

sub get_subdir {
    die "a sanbridge storage has no folders\n";
}

sub qemu_blockdev_options {
    my ($class, $scfg, $storeid, $volname, $machine_version, $options) = @_;
    my $path = $class->path($scfg, $volname, $storeid, $options->{'snapshot-name'});
    return { driver => 'host_device', filename => $path };
}

# Configuration hooks: run by PVE under the lock of storage.cfg, 60 s for a hook and the activation after it

sub on_add_hook {
    my ($class, $storeid, $scfg, %secrets) = @_;
    # before API 11 PVE would have written our secret to storage.cfg
    die "this Proxmox VE cannot keep the password of a third-party storage secret -- update to 8.4 or newer\n"
        if defined($scfg->{'sanbridge-password'});
    $ask->($storeid, $scfg, 'storage.add', 30, { secrets => {%secrets} });
    return undef;
}

my $update = sub {
    my ($storeid, $scfg, $changes, $delete, $secrets) = @_;
    $ask->(
        $storeid,
        $scfg,
        'storage.update',
        40,
        {
            changes => { map { $_ => "$changes->{$_}" } grep { m/\Asanbridge-/ } keys $changes->%* },
            delete => defined($delete) ? [grep { m/\Asanbridge-/ } $delete->@*] : undef,
            secrets => {$secrets->%*},
        },
    );
    return undef;
};

sub on_update_hook_full {
    my ($class, $storeid, $scfg, $changes, $delete, $secrets) = @_;
    return $update->($storeid, $scfg, $changes, $delete // [], $secrets);
}

# Hosts below API 13: the old options come from the file, and what is deleted is not told.
sub on_update_hook {
    my ($class, $storeid, $changes, %secrets) = @_;
    my $scfg = PVE::Storage::config()->{ids}->{$storeid} // die "no storage '$storeid'\n";
    return $update->($storeid, $scfg, $changes, undef, \%secrets);
}

sub on_delete_hook {
    my ($class, $storeid, $scfg) = @_;
    $ask->($storeid, $scfg, 'storage.remove', 10);
    return undef;
}

# The storage

sub check_connection {
    my ($class, $storeid, $scfg) = @_;
    my $reason = $ask->(
        $storeid,
        $scfg,
        'storage.check',
        2,
        undef,
        sub {
            my ($ok) = @_;
            return $boolean->($ok, 'online') ? '' : defined($ok->{reason}) ? $line->($ok, 'reason') : 'offline';
        },
    );
    die "$reason\n" if $reason ne '';
    return 1;
}

sub activate_storage {
    my ($class, $storeid, $scfg, $cache) = @_;
    $ask->($storeid, $scfg, 'storage.activate', 12);
    return 1;
}

sub status {
    my ($class, $storeid, $scfg, $cache) = @_;
    my $status = $ask->(
        $storeid,
        $scfg,
        'storage.status',
        2,
        undef,
        sub {
            my ($ok) = @_;
            return [(map { $integer->($ok, $_) } qw(total available used)), $boolean->($ok, 'active')];
        },
    );
    return $status->@*;
}

sub get_identity {
    my ($class, $scfg, $storeid) = @_;
    return $ask->($storeid, $scfg, 'storage.identity', 5, undef, sub { return $line->($_[0], 'identity') });
}

# PVE's storage lock lets one operation at a time through in the whole cluster, of whatever volumes. Many at once would
# wait longer for it than they may, and nothing here needs it: the daemons have a lease for each volume, the array makes
# each name once and deletes nothing that has clones. Imports come without it anyway.
sub cluster_lock_storage {
    my ($class, $storeid, $shared, $timeout, $func, @param) = @_;
    return scalar($func->(@param));
}

# Volumes

# A new volume, by one of the methods that make empty ones; the others are those of $ask.
my $make = sub {
    my ($storeid, $scfg, $method, $vmid, $name, $size_kib, $otherwise, $use) = @_;
    my ($owner) = $vmid =~ m/\A($VMID)\z/ or die "bad VM id\n";
    # KiB, but with a fraction where PVE copies a disk of odd size
    my ($kib) = $size_kib =~ m/\A([0-9]{1,13}(?:\.[0-9]+)?)\z/ or die "bad size\n";
    my $bytes = int($kib * 1024 + 0.5) or die "a volume needs a size\n";
    my $wanted;
    if (defined($name) && $name ne '') {
        ($wanted) = $name =~ m/\A(vm-$owner-$TEXT)\z/
            or die "volume name '@{[$name =~ s/[^ -~]/?/gr]}' does not begin with 'vm-$owner-'"
            . " or has characters a sanbridge storage does not take\n";
    }
    my $params = { vmid => $owner + 0, name => $wanted, size_bytes => $bytes };
    return $ask->(
        $storeid,
        $scfg,
        $method,
        WORK,
        $params,
        sub {
            my ($ok) = @_;
            my $made = $pattern->($ok, 'name', qr/vm-$owner-$TEXT/);
            die "another volume than asked for, '$made'\n" if defined($wanted) && $made ne $wanted;
            die "a smaller volume than asked for\n" if $integer->($ok, 'size_bytes') < $bytes;
            return $made;
        },
        $otherwise,
        $use,
    );
};

sub alloc_image {
    my ($class, $storeid, $scfg, $vmid, $fmt, $name, $size_kib) = @_;
    die "a sanbridge storage has no volumes of format '$fmt', only raw\n" if $fmt ne 'raw';
    return $make->($storeid, $scfg, 'volume.create', $vmid, $name, $size_kib);
}

# Under the lock the volume is only claimed; a deletion that takes longer is waited for by PVE's task, without the lock.
sub free_image {
    my ($class, $storeid, $scfg, $volname, $isBase, $format) = @_;
    $ask->($storeid, $scfg, 'volume.delete', WORK, { name => $volume->($class, $volname) });
    return undef;
}

sub list_images {
    my ($class, $storeid, $scfg, $vmid, $vollist, $cache) = @_;
    my ($owner, $names);
    if ($vollist) {
        $names = [
            grep { defined($_) }
            map { m/\A\Q$storeid\E:(.+)\z/s ? eval { $volume->($class, $1) } : undef } $vollist->@*
        ];
        return [] if !$names->@*;
    } elsif (defined($vmid)) {
        ($owner) = $vmid =~ m/\A($VMID)\z/ or die "bad VM id\n";
    }
    my $params = { vmid => defined($owner) ? $owner + 0 : undef, names => $names };
    return $ask->(
        $storeid,
        $scfg,
        'volume.list',
        25,
        $params,
        sub { return [map { $class->listed($storeid, $_) } $list->($_[0], 'volumes')] },
    );
}

# The base class would list everything once for `images` and once for `rootdir`.
sub list_volumes {
    my ($class, $storeid, $scfg, $vmid, $content_types) = @_;
    my %wanted = map { $_ => 1 } $content_types->@*;
    return [] if !$wanted{images} && !$wanted{rootdir};
    my $guests = PVE::Cluster::get_vmlist();
    my @volumes = $class->list_images($storeid, $scfg, $vmid)->@*;
    $_->{content} = $is_container->($_->{vmid}, $guests) ? 'rootdir' : 'images' for @volumes;
    return [grep { $wanted{ $_->{content} } } @volumes];
}

# One entry of a list as PVE wants it.
sub listed {
    my ($class, $storeid, $item) = @_;
    die "bad 'volumes'\n" if ref($item) ne 'HASH';
    my $name = $volume->($class, $item->{name});
    my $vmid = $integer->($item, 'vmid');
    die "owner of '$name' is not $vmid\n" if ($class->parse_volname($name))[2] != $vmid;
    my ($used, $created) = map { $integer_or_undef->($item, $_) } qw(used_bytes created);
    return {
        volid => "$storeid:$name",
        vmid => $vmid,
        format => 'raw',
        size => $integer->($item, 'size_bytes'),
        defined($used) ? (used => $used) : (),
        defined($created) ? (ctime => $created) : (),
    };
}

# Attaches a volume or a snapshot of one; returns its size.
my $attach = sub {
    my ($class, $storeid, $scfg, $volname, $snapname, $hints) = @_;
    my $path = $class->path($scfg, $volname, $storeid, $snapname);
    $hints //= {};
    my $told = { map { $_ => "$hints->{$_}" } grep { defined($hints->{$_}) } keys $hints->%* };
    return $ask->(
        $storeid,
        $scfg,
        'volume.attach',
        90,
        { name => $volume->($class, $volname), snapshot => $snapshot_or_undef->($snapname), hints => $told },
        sub {
            my ($ok) = @_;
            die "another path than '$path'\n" if ($ok->{path} // '') ne $path;
            return $integer->($ok, 'size_bytes');
        },
    );
};

sub activate_volume {
    my ($class, $storeid, $scfg, $volname, $snapname, $cache, $hints) = @_;
    $attach->($class, $storeid, $scfg, $volname, $snapname, $hints);
    return 1;
}

sub deactivate_volume {
    my ($class, $storeid, $scfg, $volname, $snapname, $cache) = @_;
    my $params = { name => $volume->($class, $volname), snapshot => $snapshot_or_undef->($snapname) };
    $ask->($storeid, $scfg, 'volume.detach', 60, $params);
    return 1;
}

# PVE's timeout is advice for those who start a program.
sub volume_size_info {
    my ($class, $scfg, $storeid, $volname, $timeout) = @_;
    my $info = $ask->(
        $storeid,
        $scfg,
        'volume.size',
        10,
        { name => $volume->($class, $volname) },
        sub {
            my ($ok) = @_;
            return [$integer->($ok, 'size_bytes'), map { $integer_or_undef->($ok, $_) } qw(used_bytes created)];
        },
    );
    my ($size, $used, $created) = $info->@*;
    return wantarray ? ($size, 'raw', $used, undef, $created) : $size;
}

# QEMU is told of the new size right after: the device has it when the daemon answers.
sub volume_resize {
    my ($class, $scfg, $storeid, $volname, $size, $running, $snapname) = @_;
    die "a snapshot of a sanbridge volume cannot be resized\n" if defined($snapname);
    my ($bytes) = $size =~ m/\A([1-9][0-9]{0,15})\z/ or die "bad size\n";
    $ask->(
        $storeid,
        $scfg,
        'volume.grow',
        60,
        { name => $volume->($class, $volname), size_bytes => $bytes + 0, running => $running ? \1 : \0 },
        sub { die "a smaller size than asked for\n" if $integer->($_[0], 'size_bytes') < $bytes },
    );
    return undef;
}

# Snapshots

my $of_snapshot = sub {
    my ($class, $volname, $snap) = @_;
    return (name => $volume->($class, $volname), snapshot => $snapshot->($snap));
};

# The snapshot of a container's backup has a name that PVE keeps for backups, and is taken anew for each. PVE asks for it
# only where no container knows of one. So one that is there all the same is what an earlier backup has left: PVE forgets
# it even where its removal failed, because the array was away or something still read it.
sub volume_snapshot {
    my ($class, $scfg, $storeid, $volname, $snap) = @_;
    my %of = $of_snapshot->($class, $volname, $snap);
    my $take = sub { $ask->($storeid, $scfg, 'snapshot.create', 60, {%of}, undef, $_[0]) };
    my $replace = sub {
        $ask->($storeid, $scfg, 'snapshot.delete', 60, { %of, running => \0 });
        $take->();
    };
    my $is_backup = $snap eq 'vzdump' && $is_container->(($class->parse_volname($volname))[2]);
    $take->($is_backup ? { AlreadyExists => $replace } : undef);
    return undef;
}

sub volume_snapshot_delete {
    my ($class, $scfg, $storeid, $volname, $snap, $running) = @_;
    my $params = { $of_snapshot->($class, $volname, $snap), running => $running ? \1 : \0 };
    $ask->($storeid, $scfg, 'snapshot.delete', 60, $params);
    return undef;
}

sub volume_rollback_is_possible {
    my ($class, $scfg, $storeid, $volname, $snap, $blockers) = @_;
    my $verdict = $ask->(
        $storeid,
        $scfg,
        'snapshot.check',
        25,
        { $of_snapshot->($class, $volname, $snap) },
        sub {
            my ($ok) = @_;
            return {
                possible => $boolean->($ok, 'possible'),
                blockers => [map { $snapshot->($_) } $list->($ok, 'blockers')],
                reason => defined($ok->{reason}) ? $line->($ok, 'reason') : undef,
            };
        },
    );
    return 1 if $verdict->{possible};
    push $blockers->@*, $verdict->{blockers}->@* if $blockers;
    my $reason = $verdict->{reason} // "volume '$volname' cannot be rolled back to snapshot '$snap'";
    $reason .= ' (blocked by: ' . join(', ', $verdict->{blockers}->@*) . ')' if $verdict->{blockers}->@*;
    die "$reason\n";
}

sub volume_snapshot_rollback {
    my ($class, $scfg, $storeid, $volname, $snap) = @_;
    my $params = { $of_snapshot->($class, $volname, $snap) };
    $ask->($storeid, $scfg, 'snapshot.rollback', 120, $params);
    return undef;
}

sub volume_snapshot_info {
    my ($class, $scfg, $storeid, $volname) = @_;
    return $ask->(
        $storeid,
        $scfg,
        'snapshot.list',
        25,
        { name => $volume->($class, $volname) },
        sub {
            my ($ok) = @_;
            die "bad 'snapshots'\n" if ref($ok->{snapshots}) ne 'HASH';
            my $found = {};
            for my $key (keys $ok->{snapshots}->%*) {
                my $item = $ok->{snapshots}->{$key};
                die "bad 'snapshots'\n" if ref($item) ne 'HASH';
                $found->{ $snapshot->($key) } =
                    { id => $line->($item, 'id'), timestamp => $integer->($item, 'created') };
            }
            return $found;
        },
    );
}

# A running container is frozen and its file systems flushed before a snapshot.
sub volume_snapshot_needs_fsfreeze { return 1 }

sub volume_qemu_snapshot_method { return 'storage' }

# What PVE may ask for

# sparseinit: a new volume is thin and reads as zeroes.
# clone, of a snapshot: the daemon can, but a clone that was deleted holds its snapshot as long as the array's recovery queue
# keeps it, and PVE would lock the guest whose snapshot cannot be deleted. A full clone of a snapshot needs no such thing.
my $FEATURES = {
    snapshot => { current => 1, snap => 1 },
    clone => { base => 1 },
    template => { current => 1 },
    rename => { current => 1 },
    copy => { base => 1, current => 1, snap => 1 },
    sparseinit => { base => 1, current => 1 },
};

sub volume_has_feature {
    my ($class, $scfg, $feature, $storeid, $volname, $snapname, $running, $opts) = @_;
    my $is_base = ($class->parse_volname($volname))[5];
    my $state = $snapname ? 'snap' : $is_base ? 'base' : 'current';
    return 1 if ($FEATURES->{$feature} // {})->{$state};
    return undef;
}

sub storage_can_replicate { return 0 }

sub get_volume_attribute { return undef }

sub update_volume_attribute {
    my ($class, $scfg, $storeid, $volname, $attribute, $value) = @_;
    die "attribute '$attribute' is not supported for sanbridge volumes\n";
}

sub prune_backups { die "a sanbridge storage holds no backups\n" }

# Streams: the size in eight bytes, then the bytes of the volume as it is now, or as it was at a snapshot. Copied here,
# without another program.

sub volume_export_formats {
    my ($class, $scfg, $storeid, $volname, $snap, $base_snapshot, $with_snapshots) = @_;
    return defined($base_snapshot) || $with_snapshots ? () : ('raw+size');
}

sub volume_import_formats {
    my ($class, $scfg, $storeid, $volname, $snapshot, $base_snapshot, $with_snapshots) = @_;
    return defined($snapshot) || defined($base_snapshot) || $with_snapshots ? () : ('raw+size');
}

my $plain_stream = sub {
    my ($format, $base_snapshot, $with_snapshots) = @_;
    die "a sanbridge volume cannot be streamed as '$format', only as raw+size\n" if $format ne 'raw+size';
    die "a sanbridge volume cannot be streamed together with its snapshots\n"
        if defined($base_snapshot) || $with_snapshots;
};

sub volume_export {
    my ($class, $scfg, $storeid, $out, $volname, $format, $snap, $base_snapshot, $with_snapshots) = @_;
    $plain_stream->($format, $base_snapshot, $with_snapshots);
    # A snapshot may be smaller than the volume is now, and PVE may have activated the volume only.
    my $size =
        defined($snap)
        ? $attach->($class, $storeid, $scfg, $volname, $snap)
        : $class->volume_size_info($scfg, $storeid, $volname, 10);
    require PVE::Storage::Sanbridge::Stream;
    my $path = scalar($class->path($scfg, $volname, $storeid, $snap));
    PVE::Storage::Sanbridge::Stream::copy_out($path, $out, $size);
    return undef;
}

# A template is a disk first, so that both names must be free: the disk's name.
my $disk_for_template = sub {
    my ($class, $storeid, $scfg, $name, $vmid, $allow_rename) = @_;
    my $numbered = sub { return $_[0] =~ s/\A(?:vm|base)-//r };
    my %taken;
    for my $item ($class->list_images($storeid, $scfg, $vmid)->@*) {
        my ($volname) = $item->{volid} =~ m/\A\Q$storeid\E:(.+)\z/;
        $taken{ $numbered->(($class->parse_volname($volname))[1]) } = 1;
    }
    my $wanted = $numbered->($name);
    return "vm-$wanted" if !$taken{$wanted};
    die "a volume of the name '$name' exists\n" if !$allow_rename;
    my $n = 0;
    $n++ while $taken{"$vmid-disk-$n"};
    warn "sanbridge: a volume of the name '$name' exists\n";
    return "vm-$vmid-disk-$n";
};

# The new disk is not confirmed before all its bytes are written: half a disk is none, and the daemon takes it back, however
# this process ends.
sub volume_import {
    my (
        $class, $scfg, $storeid, $in, $volname, $format, $snapshot, $base_snapshot, $with_snapshots,
        $allow_rename,
    ) = @_;
    die "a stream holds no snapshot of a sanbridge volume\n" if defined($snapshot);
    $plain_stream->($format, $base_snapshot, $with_snapshots);
    my ($name, $vmid, $is_base) = ($class->parse_volname($volname))[1, 2, 5];
    require PVE::Storage::Sanbridge::Stream;
    my $size = PVE::Storage::Sanbridge::Stream::read_size($in);
    my $fill = sub {
        my ($made) = @_;
        $class->activate_volume($storeid, $scfg, $made, undef, {});
        PVE::Storage::Sanbridge::Stream::copy_in($in, scalar($class->path($scfg, $made, $storeid)), $size);
        # Its guest does not run yet. All bytes are on the disk: that it stays attached is no reason to lose them.
        if (!eval { $class->deactivate_volume($storeid, $scfg, $made, undef, {}) }) {
            my $error = $@;
            die $error if !PVE::Storage::Sanbridge::Client::is_failure($error);
            warn "sanbridge: '$made' is written, but stays attached on this node: $error";
        }
        return $is_base ? $class->create_base($storeid, $scfg, $made) : $made;
    };
    my $outdated = sub { die $_[0] =~ s/\n//r . " -- a daemon of before this plugin: systemctl restart sanbridge.service\n" };
    my $import = sub {
        my ($wanted, $otherwise) = @_;
        my $instead = { Unsupported => $outdated, ($otherwise // {})->%* };
        return $make->($storeid, $scfg, 'volume.import', $vmid, $wanted, $size / 1024, $instead, $fill);
    };
    my $renamed = sub {
        warn "sanbridge: a volume of the name '$name' exists\n";
        return $import->();
    };
    my $made =
        $is_base ? $import->($disk_for_template->($class, $storeid, $scfg, $name, $vmid, $allow_rename))
        : $allow_rename ? $import->($name, { AlreadyExists => $renamed })
        :                 $import->($name);
    return "$storeid:$made";
}

# The clone of a template is named after it, so that PVE finds it by the template.
sub clone_image {
    my ($class, $scfg, $storeid, $volname, $vmid, $snap) = @_;
    my ($base, $is_base) = ($class->parse_volname($volname))[1, 5];
    my ($owner) = $vmid =~ m/\A($VMID)\z/ or die "bad VM id\n";
    my $of = $snapshot_or_undef->($snap);
    die "volume '$volname' is no template, so a snapshot must be named\n" if !$is_base && !defined($of);
    my $expected = defined($of) ? qr/vm-$owner-$TEXT/ : qr!\Q$base\E/vm-$owner-$TEXT!;
    return $ask->(
        $storeid,
        $scfg,
        'volume.clone',
        WORK,
        { name => $volume->($class, $volname), vmid => $owner + 0, snapshot => $of },
        sub { return $pattern->($_[0], 'name', $expected) },
    );
}

sub create_base {
    my ($class, $storeid, $scfg, $volname) = @_;
    my ($name, $base, $is_base) = ($class->parse_volname($volname))[1, 3, 5];
    die "volume '$volname' is a template already\n" if $is_base;
    my $expected = (defined($base) ? "$base/" : '') . $name =~ s/\Avm-/base-/r;
    return $ask->(
        $storeid,
        $scfg,
        'volume.template',
        WORK,
        { name => $volume->($class, $volname) },
        sub { return $pattern->($_[0], 'name', qr/\Q$expected\E/) },
    );
}

sub rename_volume {
    my ($class, $scfg, $storeid, $volname, $target_vmid, $target_volname) = @_;
    my $base = ($class->parse_volname($volname))[3];
    my ($owner) = $target_vmid =~ m/\A($VMID)\z/ or die "bad VM id\n";
    my $target;
    if (defined($target_volname) && $target_volname ne '') {
        ($target) = $target_volname =~ m/\A(vm-$owner-$TEXT)\z/
            or die "volume name '@{[$target_volname =~ s/[^ -~]/?/gr]}' is none for a disk of guest $owner\n";
    }
    my $expected = defined($target) ? qr/\Q$target\E/ : qr/vm-$owner-$TEXT/;
    $expected = qr!\Q$base\E/$expected! if defined($base);
    my $name = $ask->(
        $storeid,
        $scfg,
        'volume.rename',
        WORK,
        { name => $volume->($class, $volname), vmid => $owner + 0, target => $target },
        sub { return $pattern->($_[0], 'name', $expected) },
    );
    return "$storeid:$name";
}

sub rename_snapshot { die "a snapshot of a sanbridge volume cannot be renamed\n" }

1;
