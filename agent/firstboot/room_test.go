package firstboot

import (
	"context"
	"errors"
	"io/fs"
	"math"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestAwaitRoom: it goes on when there is room, says once that there is none, and looks again.
func TestAwaitRoom(t *testing.T) {
	values := []int64{0, 5, 15, 16, 1 << 40}
	looks, said := 0, 0
	err := awaitRoom(t.Context(), func() (int64, error) { looks++; return values[looks-1], nil }, 16, time.Microsecond, func(int64) { said++ })
	if err != nil || looks != 4 || said != 1 {
		t.Errorf("%d looks, said %d times: %v", looks, said, err)
	}
}

// TestAwaitRoomOfAFolder: real file systems.
func TestAwaitRoomOfAFolder(t *testing.T) {
	folder := t.TempDir()
	if err := AwaitRoom(t.Context(), folder, 1, func(m string) { t.Error(m) }); err != nil {
		t.Error(err)
	}
	if err := AwaitRoom(t.Context(), filepath.Join(folder, "none"), 1, func(string) {}); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	var message string
	err := AwaitRoom(ctx, folder, math.MaxInt64, func(m string) { message = m; stop() })
	if !errors.Is(err, context.Canceled) || !strings.HasPrefix(message, "waiting for room: "+folder+" has ") {
		t.Errorf("%v, %q", err, message)
	}
}
