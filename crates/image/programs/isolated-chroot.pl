#!/usr/bin/perl
# chroot ROOT PROGRAM [ARGUMENT...]
#
# Stands in for chroot(8) while mmdebstrap installs the guest's packages, because their maintainer scripts are programs
# that run as root. They see ROOT and no other mounts, no processes but their own, no network and no devices but five, and
# they have only the capabilities that changing files and users takes. They end when this program does.
#
# Perl, since mmdebstrap needs it anyway and it can make system calls (x86-64 numbers).
use strict;
use warnings;

use constant {
    MOUNT => 165, UMOUNT2 => 166, PIVOT_ROOT => 155, UNSHARE => 272, PRCTL => 157, CHROOT => 161,
    MS_BIND => 4096, MS_REC => 16384, MS_PRIVATE => 1 << 18, MS_PROC => 1 | 2 | 4 | 8, MNT_DETACH => 2,
    NEWNS => 0x20000, NEWCGROUP => 0x2000000, NEWUTS => 0x4000000, NEWIPC => 0x8000000,
    NEWUSER => 0x10000000, NEWPID => 0x20000000, NEWNET => 0x40000000,
    PR_SET_PDEATHSIG => 1, PR_CAPBSET_READ => 23, PR_CAPBSET_DROP => 24, KILL => 9,
};

# chown, dac_override, fowner, fsetid, kill, setgid, setuid, sys_chroot, setfcap
my %kept_capabilities = map { $_ => 1 } (0, 1, 3, 4, 5, 6, 7, 18, 31);
my @devices = qw(null zero full random urandom);

sub call {
    my ($what, @arguments) = @_;
    syscall($arguments[0], @arguments[1 .. $#arguments]) == -1 and die "chroot: cannot $what: $!\n";
}

sub mount {
    my ($source, $target, $type, $flags, $options) = @_;
    call("mount $target", MOUNT, $source, $target, $type, $flags, $options // 0);
}

# Makes ROOT, with its own /proc and the devices, the root of this mount namespace.
sub enter {
    my ($root) = @_;
    mount('none', '/', 'none', MS_REC | MS_PRIVATE);
    # Without the mounts below it, which mmdebstrap has made for programs of the host.
    mount($root, $root, 'none', MS_BIND);
    # Read-only and with nothing but processes: root may write the kernel's settings below /proc even without capabilities.
    mount('proc', "$root/proc", 'proc', MS_PROC, 'subset=pid') if -d "$root/proc";
    for my $device (grep { -e "$root/dev/$_" } @devices) {
        mount("/dev/$device", "$root/dev/$device", 'none', MS_BIND);
    }

    chdir $root or die "chroot: cannot change to $root: $!\n";
    call('change the root', PIVOT_ROOT, my $new = '.', my $old = '.');
    call('detach the old root', UMOUNT2, my $detached = '.', MNT_DETACH);
    chdir '/' or die "chroot: cannot change to the new root: $!\n";
}

sub drop_capabilities {
    for my $capability (0 .. 63) {
        next if $kept_capabilities{$capability};
        # The first number that the kernel does not know is past the last one.
        last if syscall(PRCTL, PR_CAPBSET_READ, $capability, 0, 0, 0) == -1;
        call("drop capability $capability", PRCTL, PR_CAPBSET_DROP, $capability, 0, 0, 0);
    }
}

# Becomes the program, without the caller's environment: its proxies and tokens are not for scripts.
sub become {
    my (@program) = @_;
    %ENV = (
        PATH => '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
        HOME => '/root',
        LC_ALL => 'C.UTF-8',
        DEBIAN_FRONTEND => 'noninteractive',
        DEBCONF_NONINTERACTIVE_SEEN => 'true',
    );
    exec { $program[0] } @program or die "chroot: cannot execute $program[0]: $!\n";
}

# Maps the same users into a process's new user namespace as this one has.
sub map_users {
    my ($pid) = @_;
    for my $map ('uid_map', 'gid_map') {
        open(my $own, '<', "/proc/self/$map") or return;
        my $lines = join '', map { my ($inside, undef, $count) = split; "$inside $inside $count\n" } <$own>;
        open(my $new, '>', "/proc/$pid/$map") or return;
        syswrite $new, $lines or return;
        close $new or return;
    }
    return 1;
}

my ($root, @program) = @ARGV;
@program or die "usage: chroot ROOT PROGRAM [ARGUMENT...]\n";

my $owner = getppid;
call('tie this program to its parent', PRCTL, PR_SET_PDEATHSIG, KILL, 0, 0, 0);
getppid == $owner or exit 1;

# Where this root may not create namespaces (in a container), the container is what separates it from the host.
if (syscall(UNSHARE, NEWPID | NEWNET | NEWIPC | NEWUTS | NEWCGROUP) == -1) {
    warn "I: maintainer scripts run without namespaces of their own: $!\n";
    call("change the root to $root", CHROOT, $root);
    chdir '/' or die "chroot: cannot change to the new root: $!\n";
    drop_capabilities();
    become(@program);
}

pipe(my $asks, my $ask) and pipe(my $answers, my $answer) or die "chroot: cannot create a pipe: $!\n";
my $child = fork // die "chroot: cannot fork: $!\n";
if ($child == 0) {
    close $asks;
    close $answer;
    call('tie the program to its parent', PRCTL, PR_SET_PDEATHSIG, KILL, 0, 0, 0);
    # Only here: this program's own /proc must stay.
    call('create a mount namespace', UNSHARE, NEWNS);
    enter($root);
    drop_capabilities();

    # A user namespace of its own, where the host allows one: there its capabilities mean nothing to the host.
    my $in_namespace = syscall(UNSHARE, NEWUSER) == 0;
    syswrite $ask, $in_namespace ? 'y' : 'n';
    my $got = sysread($answers, my $mapped, 1);
    $got && $mapped eq 'y' or die "chroot: cannot map users into a namespace\n";
    drop_capabilities() if $in_namespace;
    # Dropping rights may clear the signal.
    call('tie the program to its parent', PRCTL, PR_SET_PDEATHSIG, KILL, 0, 0, 0);

    become(@program);
}

close $ask;
close $answers;
if (sysread($asks, my $in_namespace, 1)) {
    my $mapped = $in_namespace eq 'n' || map_users($child);
    syswrite $answer, $mapped ? 'y' : 'n';
}
close $answer;

waitpid $child, 0;
exit(($? & 127) ? 128 + ($? & 127) : $? >> 8);
