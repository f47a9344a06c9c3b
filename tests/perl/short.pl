#!/usr/bin/perl -T
# The shortest whole life of a disk through the plugin's own methods, against a daemon that really runs.
#
# Argument: the daemon's socket. Input: the storage's options, one JSON line. Output: lines "@ <place>", at each of which it
# waits for an input line: there the other side looks at the array and the node, and writes and reads what a guest would.

use strict;
use warnings;

BEGIN {
    my ($dir) = __FILE__ =~ m{\A(.*?)[^/]*\z}s;
    my $perl = "${dir}../../crates/pve-bridge/perl";
    unshift @INC, "$perl/t/lib", $perl;
}

use JSON::PP ();

use PVE::Storage::Plugin ();
use PVE::Storage::Sanbridge::Client ();
use PVE::Storage::Custom::SanbridgePlugin ();
my $class = 'PVE::Storage::Custom::SanbridgePlugin';

STDOUT->autoflush(1);
my ($socket) = map { m/\A(.+)\z/s } @ARGV;
$PVE::Storage::Sanbridge::Client::SOCKET = $socket;
my $given = JSON::PP->new->decode(scalar readline(STDIN));
my $password = delete $given->{'sanbridge-password'};
my $scfg = { $given->%*, type => 'sanbridge', shared => 1, content => { images => 1 } };
my ($id, $disk) = ('san1', 'vm-100-disk-0');

sub place {
    my ($name) = @_;
    print STDOUT "@ $name\n";
    defined(readline(STDIN)) or die "nobody listens any more\n";
}

$class->on_add_hook($id, $scfg, 'sanbridge-password' => $password);
$class->activate_storage($id, $scfg, {});
my $made = $class->alloc_image($id, $scfg, 100, 'raw', undef, 8192);
die "made '$made'\n" if $made ne $disk;
place('allocated');
$class->activate_volume($id, $scfg, $disk);
place('attached');
$class->volume_snapshot($scfg, $id, $disk, 'before');
place('snapshotted');
$class->volume_resize($scfg, $id, $disk, 16 << 20, 1);
place('grown');
$class->deactivate_volume($id, $scfg, $disk);
place('detached');
$class->volume_snapshot_rollback($scfg, $id, $disk, 'before');
$class->activate_volume($id, $scfg, $disk);
place('rolled back');
$class->deactivate_volume($id, $scfg, $disk);
$class->volume_snapshot_delete($scfg, $id, $disk, 'before');
my $rest = $class->free_image($id, $scfg, $disk, 0, 'raw');
$rest->() if $rest;
$class->on_delete_hook($id, $scfg);
place('removed');
