// Builds three files with fixed names into the Python package, which serves them.
import { defineConfig } from "vite";

export default defineConfig({
  base: "./",
  oxc: { jsx: { runtime: "automatic", importSource: "preact" } },
  build: {
    outDir: "../src/tupelo_server/static",
    emptyOutDir: true,
    target: "es2022",
    modulePreload: false,
    assetsInlineLimit: 0,
    rollupOptions: {
      output: {
        entryFileNames: "playground/app.js",
        assetFileNames: "playground/app[extname]",
        codeSplitting: false,
      },
    },
  },
});
