module github.com/slipway-os/slipway/images/components/check

go 1.26.0
