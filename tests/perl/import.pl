#!/usr/bin/perl -T
# An import through the plugin's own method, against a daemon that really runs. Its bytes are not written here, since the
# plugin's paths need not exist: where it would copy them it says "@ <its process> <volume>" and waits for an input line.
#
# Argument: the daemon's socket. Input: the storage's options, one JSON line. Output: that line, and what came of it.

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
use PVE::Storage::Sanbridge::Stream ();
use PVE::Storage::Custom::SanbridgePlugin ();

STDOUT->autoflush(1);
my ($socket) = map { m/\A(.+)\z/s } @ARGV;
$PVE::Storage::Sanbridge::Client::SOCKET = $socket;
my $given = JSON::PP->new->decode(scalar readline(STDIN));
delete $given->{'sanbridge-password'};
my $scfg = { $given->%*, type => 'sanbridge', shared => 1, content => { images => 1 } };

{
    no warnings qw(redefine once);
    *PVE::Storage::Sanbridge::Stream::copy_in = sub {
        my ($in, $path, $size) = @_;
        print STDOUT "@ $$ $path\n";
        defined(readline(STDIN)) or die "nobody listens any more\n";
    };
}

pipe(my $stream, my $sender) or die "no pipe ($!)\n";
syswrite($sender, pack('Q<', 8 << 20));
my $made = eval {
    PVE::Storage::Custom::SanbridgePlugin->volume_import(
        $scfg, 'san1', $stream, 'vm-100-disk-0', 'raw+size', undef, undef, 0, 1,
    );
};
print STDOUT $made // "refused: $@", "\n";
