package blockmap

import (
	"bytes"
	"crypto/sha256"
	"encoding/xml"
	"fmt"
	"strconv"
	"strings"
)

// MaxSize bounds a block map in bytes.
const MaxSize = 32 << 20

// Bounds of what a map may say.
const (
	maxImage  = 1 << 46 // bytes
	maxBlock  = 1 << 20 // bytes
	maxRanges = 1 << 18
)

// document is bmap 2.0's XML (bmap-tools, bmaptools/BmapCreate.py).
type document struct {
	XMLName   xml.Name `xml:"bmap"`
	Version   string   `xml:"version,attr"`
	ImageSize string
	BlockSize string
	Blocks    string `xml:"BlocksCount"`
	Mapped    string `xml:"MappedBlocksCount"`
	Checksum  string `xml:"ChecksumType"`
	File      string `xml:"BmapFileChecksum"` // of this file, with zeros in place of these 64 digits
	Ranges    []struct {
		SHA256 string `xml:"chksum,attr"`
		Blocks string `xml:",chardata"`
	} `xml:"BlockMap>Range"`
}

const noSum = "0000000000000000000000000000000000000000000000000000000000000000"

func (m *Map) blocks() int64 { return (m.ImageSize + m.BlockSize - 1) / m.BlockSize }

// Encode is the map as bmap 2.0.
func (m *Map) Encode() []byte {
	var b bytes.Buffer
	mapped := int64(0)
	for _, r := range m.Ranges {
		mapped += r.Last - r.First + 1
	}
	fmt.Fprintf(&b, `<?xml version="1.0" ?>
<bmap version="2.0">
    <ImageSize> %d </ImageSize>
    <BlockSize> %d </BlockSize>
    <BlocksCount> %d </BlocksCount>
    <MappedBlocksCount> %d </MappedBlocksCount>
    <ChecksumType> sha256 </ChecksumType>
    <BmapFileChecksum> %s </BmapFileChecksum>
    <BlockMap>
`, m.ImageSize, m.BlockSize, m.blocks(), mapped, noSum)
	for _, r := range m.Ranges {
		blocks := strconv.FormatInt(r.First, 10)
		if r.Last > r.First {
			blocks += "-" + strconv.FormatInt(r.Last, 10)
		}
		fmt.Fprintf(&b, "        <Range chksum=\"%s\"> %s </Range>\n", r.SHA256, blocks)
	}
	b.WriteString("    </BlockMap>\n</bmap>\n")
	sum := fmt.Sprintf("%x", sha256.Sum256(b.Bytes()))
	return bytes.Replace(b.Bytes(), []byte(noSum), []byte(sum), 1)
}

// Decode reads a map. Its ranges are in order, do not touch each other, lie within the image and have digests; the map's
// own digest is right.
func Decode(data []byte) (*Map, error) {
	m, err := decode(data)
	if err != nil {
		return nil, fmt.Errorf("cannot read block map: %w", err)
	}
	return m, nil
}

func decode(data []byte) (*Map, error) {
	if len(data) > MaxSize {
		return nil, fmt.Errorf("%d bytes are over the limit of %d", len(data), MaxSize)
	}
	var d document
	if err := xml.Unmarshal(data, &d); err != nil {
		return nil, err
	}
	if version := strings.TrimSpace(d.Version); version != "2.0" {
		return nil, fmt.Errorf("version %q is not 2.0", version)
	}
	if kind := strings.TrimSpace(d.Checksum); kind != "sha256" {
		return nil, fmt.Errorf("digests of kind %q are not sha256", kind)
	}
	if err := checkSum(data, strings.TrimSpace(d.File)); err != nil {
		return nil, err
	}
	m := &Map{}
	var blocks, mapped int64
	for _, n := range []struct {
		name, text string
		most       int64
		to         *int64
	}{
		{"ImageSize", d.ImageSize, maxImage, &m.ImageSize}, {"BlockSize", d.BlockSize, maxBlock, &m.BlockSize},
		{"BlocksCount", d.Blocks, maxImage, &blocks}, {"MappedBlocksCount", d.Mapped, maxImage, &mapped},
	} {
		var err error
		if *n.to, err = parse(n.text, n.most); err != nil {
			return nil, fmt.Errorf("%s: %w", n.name, err)
		}
	}
	if m.BlockSize < 512 || m.BlockSize&(m.BlockSize-1) != 0 || m.ImageSize == 0 || blocks != m.blocks() {
		return nil, fmt.Errorf("%d blocks of %d bytes are no image of %d", blocks, m.BlockSize, m.ImageSize)
	}
	if err := m.decodeRanges(d); err != nil {
		return nil, err
	}
	for _, r := range m.Ranges {
		mapped -= r.Last - r.First + 1
	}
	if mapped != 0 {
		return nil, fmt.Errorf("%d mapped blocks are not in its ranges", mapped)
	}
	return m, nil
}

func checkSum(data []byte, sum string) error {
	if !digest(sum) || bytes.Count(data, []byte(sum)) != 1 {
		return fmt.Errorf("its own digest %q is none", sum)
	}
	zeroed := bytes.Replace(data, []byte(sum), []byte(noSum), 1)
	if got := fmt.Sprintf("%x", sha256.Sum256(zeroed)); got != sum {
		return fmt.Errorf("its digest is %s, and it says %s: it is damaged", got, sum)
	}
	return nil
}

func (m *Map) decodeRanges(d document) error {
	if len(d.Ranges) > maxRanges {
		return fmt.Errorf("%d ranges are over the limit of %d", len(d.Ranges), maxRanges)
	}
	next := int64(0)
	for i, text := range d.Ranges {
		first, last, more := strings.Cut(strings.TrimSpace(text.Blocks), "-")
		if !more {
			last = first
		}
		r := Range{SHA256: text.SHA256}
		var err error
		if r.First, err = parse(first, m.blocks()-1); err != nil {
			return fmt.Errorf("range %d: %w", i+1, err)
		}
		if r.Last, err = parse(last, m.blocks()-1); err != nil {
			return fmt.Errorf("range %d: %w", i+1, err)
		}
		if r.First < next || r.Last < r.First || !digest(r.SHA256) {
			return fmt.Errorf("range %d: %d-%d with digest %q comes after block %d", i+1, r.First, r.Last, r.SHA256, next-1)
		}
		next = r.Last + 1
		m.Ranges = append(m.Ranges, r)
	}
	return nil
}

// parse reads a number of digits, at most most.
func parse(text string, most int64) (int64, error) {
	n, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil || n < 0 || n > most {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", text, most)
	}
	return n, nil
}

func digest(s string) bool { return len(s) == 64 && strings.Trim(s, "0123456789abcdef") == "" }
