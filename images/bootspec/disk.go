package bootspec

import (
	"encoding/hex"
	"fmt"
	"regexp"
	"strconv"
)

// Partition labels of a disk. The agent finds partitions by them; PARTNAME in /sys/class/block/*/uevent has them.
//
// A slot is two partitions: the root image's squashfs (ArgRootData bytes of it) and its verity tree (the rest of it, from
// ArgRootData up to ArgRootSize). Which slot holds the image that was booted is told by their partition GUIDs (SlotGUID,
// VerityGUID).
const (
	LabelESP     = "slipway-esp"
	LabelRootA   = "slipway-root-a"
	LabelVerityA = "slipway-verity-a"
	LabelRootB   = "slipway-root-b"
	LabelVerityB = "slipway-verity-b"
	LabelConfig  = "slipway-config" // the node's own configuration (ConfigPlace); zeros in an image
	LabelState   = "slipway-state"  // the last one; empty in an image, grown to the end of the disk on the first boot
)

// Partition type GUIDs (UAPI specification "Discoverable Partitions"), in lower case.
const (
	PartitionTypeESP   = "c12a7328-f81f-11d2-ba4b-00a0c93ec93b"
	PartitionTypeState = "0fc63daf-8483-4772-8e79-3d69d8477de4" // generic Linux data: a "var" is bound to a machine id
	// PartitionTypeConfig is our own: nothing else may take what is in there for a file system.
	PartitionTypeConfig = "6a5f1c2e-3d0b-4f5e-9a64-736c69707779"
)

// Attributes of a root partition: nothing writes it, and nobody's gpt-auto-generator mounts it unverified.
const (
	PartitionReadOnly uint64 = 1 << 60
	PartitionNoAuto   uint64 = 1 << 63
)

// PartitionTypeRoot is the type GUID of an architecture's root partitions; empty for an unknown one.
func PartitionTypeRoot(arch string) string {
	return map[string]string{
		"amd64": "4f68bce3-e8cd-4db1-96e7-fbcaf984b709",
		"arm64": "b921b045-1df0-41c3-af44-4c6f280d3fae",
	}[arch]
}

// PartitionTypeVerity is the type GUID of the verity trees of an architecture's root partitions; empty for an unknown one.
func PartitionTypeVerity(arch string) string {
	return map[string]string{
		"amd64": "2c7357ed-ebd2-46d9-aec1-23d437ec2bf5",
		"arm64": "df3300ce-d69f-4c92-978c-9bfb0f38d820",
	}[arch]
}

// SlotGUID is the GUID of the partition that holds the image with that dm-verity root hash (64 hexadecimal digits): its
// first 128 bits, as "Discoverable Partitions" has it for roots with verity. An empty slot has another GUID.
func SlotGUID(rootHash string) (string, error) { return hashGUID(rootHash, 0) }

// VerityGUID is the GUID of the partition with that image's verity tree: the last 128 bits of the root hash.
func VerityGUID(rootHash string) (string, error) { return hashGUID(rootHash, 16) }

func hashGUID(rootHash string, from int) (string, error) {
	b, err := hex.DecodeString(rootHash)
	if err != nil || len(b) != 32 {
		return "", fmt.Errorf("root hash %q is not a SHA-256 value", rootHash)
	}
	b = b[from : from+16]
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16]), nil
}

// Files on the ESP.
const (
	LoaderConfig = "loader/loader.conf" // systemd-boot's (loader.conf(5))
	UKIDirectory = "EFI/Linux"          // unified kernel images that systemd-boot finds by itself
)

// RemovableLoader is the path on the ESP that firmware starts when nothing else is configured (UEFI specification 2.10,
// section 3.5.1.1); empty for an unknown architecture.
func RemovableLoader(arch string) string {
	return map[string]string{"amd64": "EFI/BOOT/BOOTX64.EFI", "arm64": "EFI/BOOT/BOOTAA64.EFI"}[arch]
}

// Loader is where the root image has systemd-boot, as its package brings it, for nodes that install themselves to disk;
// relative to the root, empty for an unknown architecture.
func Loader(arch string) string {
	return map[string]string{
		"amd64": "usr/lib/systemd/boot/efi/systemd-bootx64.efi", "arm64": "usr/lib/systemd/boot/efi/systemd-bootaa64.efi",
	}[arch]
}

// BootTries is how often a new image is tried before the loader prefers the other one.
const BootTries = 3

// BootEntry is the file name of an image's unified kernel image in UKIDirectory while it still has to prove itself
// (UAPI specification "Automatic Boot Assessment"): slipway-worker-0.1.0-amd64+3.efi. Without tries it has no counter.
func BootEntry(image string, tries int) string {
	if tries == 0 {
		return image + ExtUKI
	}
	return image + "+" + strconv.Itoa(tries) + ExtUKI
}

var bootEntry = regexp.MustCompile(`^(slipway-[a-z0-9.+~-]+-[a-z][a-z0-9]*)(?:\+([0-9]{1,4})(?:-([0-9]{1,4}))?)?\.efi$`)

// BootCount is how a boot entry stands: a counted one has tries left and has failed so many times; one without a
// counter is known to be good.
type BootCount struct {
	Counted      bool
	Left, Failed int
}

// ParseBootEntry reads the file name of a boot entry, as the loader may have renamed it; ok is false when it is none.
// An image name ends with its architecture, so what a version says after a plus sign is never taken for a counter.
func ParseBootEntry(name string) (image string, count BootCount, ok bool) {
	m := bootEntry.FindStringSubmatch(name)
	if m == nil {
		return "", BootCount{}, false
	}
	count.Counted = m[2] != ""
	count.Left, _ = strconv.Atoi(m[2])
	count.Failed, _ = strconv.Atoi(m[3])
	return m[1], count, true
}

// Extensions of disk images: for devices with sectors of 512 bytes (USB sticks, nearly all disks) and of 4096.
const (
	ExtDisk   = ".disk.raw"
	ExtDisk4K = ".disk-4k.raw"
	ExtISO    = ".iso"
	// What follows those of an image that is packed, and of its block map; ExtQCOW2 stands in place of .raw.
	ExtZstd     = ".zst"
	ExtBlockMap = ".bmap"
	ExtQCOW2    = ".qcow2"
)
